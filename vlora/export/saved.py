"""An adapter's files and the base that they were trained on, its shapes only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

from .. import models
from ..errors import CheckpointError
from ..models.load.adapter_files import ARGUMENT, is_peft, named_base, read_adapter
from ..models.published.peft_layout import Factors
from ..output.base_identity import KEY, BaseIdentity, check_base
from ..output.checkpoint import read_arrays
from ..recipe.schema import ModelSection
from ..run.origin import find_built_in, refuses_other_weights
from ..system.nouns import with_noun

Array = np.ndarray[Any, np.dtype[Any]]


@attrs.frozen(eq=False, kw_only=True)
class Saved:
    """An adapter as its files have it.

    Attributes:
        path: The file of its arrays.
        config: Its configuration.
        base: How its base is called: a hub id or a folder.
        revision: The commit of a hub id, if it is known.
        files: The base.
        backbone: The base, its shapes only.
        layers: The factors of its layers.
        scale: What the products of its factors are multiplied with.
        whole: Parameters that were trained whole.
        base_note: That it was trained on another base; None if it was not.
    """

    path: Path
    config: Mapping[str, Any]
    base: str
    revision: str | None
    files: models.ModelFiles
    backbone: models.MlxVlmBackbone
    layers: Mapping[str, Factors]
    scale: float
    whole: Mapping[str, Array]
    base_note: str | None = None

    @property
    def is_dora(self) -> bool:
        """Whether its layers have lengths of their own."""
        return self.config.get("fine_tune_type") == "dora"


def open_saved(adapter: str, base: str | None = None) -> Saved:
    """Read an adapter's files and describe its base; weights are not read.

    Args:
        adapter: Its file or folder.
        base: Another name of its base than the one that it records.

    Raises:
        VloraError: There is no such adapter, it is damaged, it was trained on a model of another architecture, or the
            recipe of its run refuses other weights.
    """
    path, config = read_adapter(adapter, ARGUMENT)
    foreign = send_to_import(path, adapter, base or named_base(config))
    if is_peft(config) or not config.get("fine_tune_type"):
        raise CheckpointError(foreign)
    recorded = config.get(KEY) or {}
    name = base or recorded.get("path") or config.get("base_model")
    if not name:
        msg = f"{path}: does not say on which model it was trained; name that with --base"
        raise CheckpointError(msg)
    _refuse_what_stays(path, config)
    name = find_built_in(name, path)
    revision = None if base or Path(name).exists() else recorded.get("revision") or config.get("base_revision")
    section = ModelSection(path=name, revision=revision)
    files = models.find_model(section)
    models.fetch_weights(files)
    backbone, _ = models.abstract_backbone(files, section)
    note = None
    if backbone.base is not None:
        known = BaseIdentity.load(recorded)
        # What --base names is meant; and where only the precision differs, the base was quantized on loading.
        is_other = base is None and (known is None or known.weights != backbone.base.weights)
        is_strict = is_other and refuses_other_weights(path)
        note = check_base(known, backbone.base, path, is_strict=is_strict, older=config.get("base_model"))
    # Whether every array is there, of the shapes that its configuration says.
    models.load_adapter(models.abstract_backbone(files, section)[0], adapter, files=files)
    layers, whole = _read_factors(path)
    if not layers.keys() <= {layer for layer, _ in backbone.module.named_modules()}:
        # mlx-lm names the language model's layers as that alone does.
        raise CheckpointError(foreign)
    scale = float((config.get("lora_parameters") or {}).get("scale", 0))
    commit = revision or files.commit
    return Saved(
        path=path,
        config=config,
        base=name,
        revision=commit,
        files=files,
        backbone=backbone,
        layers=layers,
        scale=scale,
        whole=whole,
        base_note=note,
    )


def _refuse_what_stays(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what is no adapter, and tokens that an adapter brings."""
    if config.get("fine_tune_type") not in ("lora", "dora"):
        msg = f"{path}: found {config.get('fine_tune_type')!r}, which is no adapter; expected a LoRA or DoRA"
        raise CheckpointError(msg)
    if config.get("added_tokens"):
        added = with_noun(len(config["added_tokens"]), "added token")
        msg = (
            f"{path}: was trained with {added}, for which an adapter of another program has no place; "
            "`python -m vlora fuse` writes a model that has them"
        )
        raise CheckpointError(msg)


def send_to_import(path: Path, adapter: str, base: str | None, then: str = "export") -> str:
    """Say how an adapter of another program becomes vlora's own; mlx-lm's and mlx-vlm's name no base."""
    command = f"python -m vlora import {adapter} --model {base or 'MODEL'}"
    return f"{path}: another program wrote it; write it as vlora's own with `{command}` first, and {then} that folder"


def _read_factors(path: Path) -> tuple[dict[str, Factors], dict[str, Array]]:
    """Sort an adapter's arrays: factors by their layers, and the rest."""
    arrays = {name: np.array(value.astype(mx.float32)) for name, value in read_arrays(path).items()}
    layers: dict[str, Factors] = {}
    for name in [name for name in arrays if name.endswith(".lora_a")]:
        layer = name.removesuffix(".lora_a")
        a, b = arrays.pop(name), arrays.pop(f"{layer}.lora_b")
        layers[layer] = Factors(a=a, b=b, m=arrays.pop(f"{layer}.m", None))
    return layers, arrays
