"""Which model an adapter was trained on, as its files record it, and whether another one may take its place. Pure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import attrs

from ..errors import CheckpointError

KEY = "base"
"""Of an adapter's configuration, under which its base is recorded."""

SHOWN = 8
"""Characters of a fingerprint that people read."""

Difference = Literal["same", "weights", "architecture"]


@attrs.frozen(kw_only=True)
class BaseIdentity:
    """A model that adapters are trained on.

    Attributes:
        path: Its hub id or folder, as the recipe named it.
        revision: The commit of a hub id; None of a folder.
        model_type: mlx-vlm's name of its architecture.
        architecture: Digest of the names and shapes of its parameters, however they are stored. Rows of its vocabulary
            are not counted: an adapter may bring tokens.
        summary: The same for people: how many arrays and parameters.
        precision: The type of its weights, or their bits.
        weights: Fingerprint of its files of weights; None where they were not read.
    """

    path: str
    revision: str | None = None
    model_type: str
    architecture: str
    summary: str
    precision: str
    weights: str | None = None

    def dump(self) -> dict[str, Any]:
        """Give what JSON files record."""
        return attrs.asdict(self)

    def dumps(self) -> str:
        """Give the same as text."""
        return json.dumps(self.dump())

    @classmethod
    def load(cls, found: Mapping[str, Any]) -> Self | None:
        """Read what `dump` gave; None where it is something else, as in files of other programs."""
        names = attrs.fields_dict(cls)
        values: dict[str, Any] = {name: found.get(name) for name in names}
        is_whole = all(isinstance(values[name], str) for name in names if name not in ("revision", "weights"))
        return cls(**values) if is_whole else None

    @classmethod
    def loads(cls, text: str | None) -> Self | None:
        """Read what `dumps` gave; None where it is something else."""
        try:
            found = json.loads(text or "null")
        except ValueError:
            return None
        return cls.load(found) if isinstance(found, dict) else None

    def describe(self) -> str:
        """Name the model: where it is from, what it is, in which precision, with which weights."""
        version = "" if self.revision is None else f" at {self.revision[:SHOWN]}"
        weights = "" if self.weights is None else f", weights {self.weights[:SHOWN]}"
        return f"{self.path!r}{version} ({self.model_type}, {self.summary}, {self.precision}{weights})"

    def compare(self, other: "BaseIdentity") -> Difference:
        """Say how another model differs: in its architecture, in its weights or their precision, or not at all."""
        if (self.model_type, self.architecture) != (other.model_type, other.architecture):
            return "architecture"
        is_read = None not in (self.weights, other.weights)
        if (is_read and self.weights != other.weights) or self.precision != other.precision:
            return "weights"
        return "same"


def check_base(
    recorded: BaseIdentity | None, now: BaseIdentity, where: Path | str, *, is_strict: bool, older: str | None = None
) -> str | None:
    """Compare the model that something was trained on with the model that it is loaded on.

    Args:
        recorded: The model that it was trained on; None where it does not say.
        now: The model that it is loaded on.
        where: Its file.
        is_strict: Refuse other weights, and what does not say (model.strict_base).
        older: The name of the model that it was trained on, where nothing more is recorded.

    Returns:
        A line that names both models; None where they are the same.

    Raises:
        CheckpointError: The architecture is another one, or `is_strict` refuses what differs.
    """
    if recorded is None:
        what = "was trained on a model of which it records nothing" if older is None else f"was trained on {older!r}"
        why = "whether the weights are the same is not recorded"
    else:
        difference = recorded.compare(now)
        if difference == "same":
            return None
        what = f"was trained on {recorded.describe()}"
        if difference == "architecture":
            msg = (
                f"{where} {what}, and the model is {now.describe()}, whose parameters have other names or shapes; give "
                "the model that it was trained on"
            )
            raise CheckpointError(msg, key="model.path")
        is_same = recorded.weights == now.weights
        why = "their precision is another one" if is_same else "the weights are others, so that the answers may be"
    line = f"{where}: {what}, and is loaded on {now.describe()}: {why}"
    if is_strict:
        msg = f"{line}; model.strict_base = true refuses that"
        raise CheckpointError(msg)
    return line
