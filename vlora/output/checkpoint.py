"""Adapters and training states: what is in their files, and how they are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from ..arguments import expect_type
from ..errors import CheckpointError
from ..system.safetensors_header import HeaderError, read_header
from ..types import TrainState
from . import checksums
from .atomic import sync, write_text, write_whole
from .paths import WEIGHTS_SUFFIX

CONFIG_NAME = "adapter_config.json"

OTHERWISE = "take another checkpoint, or make this one anew"

KEYS = {"position": "progress", "metrics": "reports"}
"""Names in the file of what `RunMetadata` calls otherwise."""


@attrs.frozen(kw_only=True)
class RunMetadata:
    """What a training state says of its run besides arrays. A state of another loop may say nothing of it.

    Attributes:
        recipe: The recipe, as `dump_recipe` writes it.
        n_rows: Rows that the run trains on.
        template: Fingerprint of the chat template that writes them.
        position: Where the run's batches go on; "" where the number of steps says it.
        rules: Versions of the rules that the run follows, as `Rules.dumps` writes them.
        metrics: How far metrics.jsonl was, as `Mark.dumps` writes it.
        sums: Nats and supervised tokens of all steps, whose quotient is the running loss.
        learned: How many bytes of `learned.jsonl` belong to the state.
        cuts: Rows that were cut in the steps done, as `CutCounts.dumps` writes them; None if none was.
        numbered: The numbered checkpoints that are there, as `Numbered.dumps` writes them; None if there are none.
        choice: What was said of the run's states, as `Choice.dumps` writes it; None if none was judged.
        commits: The versions of the hub's files, as `json.dumps` writes {"model": ..., "data": ...}; None if there are
            none.
        base: The model that is trained, as `BaseIdentity.dumps` writes it.
        ranks: Ranks that its steps are planned for.
        sources: What was learned of each source of a mixture, as `SourceCounts.dumps` writes it; None without one.
    """

    recipe: str | None = None
    n_rows: int | None = None
    template: str | None = None
    position: str = ""
    rules: str | None = None
    metrics: str | None = None
    sums: tuple[float, float] = (0.0, 0.0)
    learned: int = 0
    cuts: str | None = None
    numbered: str | None = None
    choice: str | None = None
    commits: str | None = None
    base: str | None = None
    ranks: int = 1
    sources: str | None = None

    def dump(self) -> dict[str, str]:
        """Give the strings that a file has of it: nothing of what is not known."""
        found = {
            **attrs.asdict(self),
            "sums": json.dumps(self.sums) if any(self.sums) else None,
            "learned": self.learned or None,
            "position": self.position or None,
            "ranks": self.ranks if self.ranks > 1 else None,
        }
        return {KEYS.get(name, name): str(value) for name, value in found.items() if value is not None}

    @classmethod
    def load(cls, found: Mapping[str, str], where: Path) -> Self:
        """Read what `dump` gave; other strings are left alone.

        Raises:
            CheckpointError: A number is something else.
        """
        texts = {name: found.get(KEYS.get(name, name)) for name in attrs.fields_dict(cls)}
        try:
            nll, supervised = json.loads(texts["sums"] or "[0, 0]")
            return cls(
                recipe=texts["recipe"],
                n_rows=None if texts["n_rows"] is None else int(texts["n_rows"]),
                template=texts["template"],
                position=texts["position"] or "",
                rules=texts["rules"],
                metrics=texts["metrics"],
                sums=(float(nll), float(supervised)),
                learned=int(texts["learned"] or 0),
                cuts=texts["cuts"],
                numbered=texts["numbered"],
                choice=texts["choice"],
                commits=texts["commits"],
                base=texts["base"],
                ranks=int(texts["ranks"] or 1),
                sources=texts["sources"],
            )
        except (ValueError, TypeError) as error:
            msg = f"{where}: what it says of its run is not understood ({error}); {OTHERWISE}"
            raise CheckpointError(msg) from None


def save_adapter(path: Path | str, params: Mapping[str, mx.array], config: Mapping[str, Any]) -> None:
    """Write an adapter as mlx-vlm reads it: its arrays, and `adapter_config.json` beside them.

    Args:
        path: A file ending in .safetensors.
        params: Qualified names to f32 arrays.
        config: What mlx-vlm needs to attach the same layers.

    Raises:
        CheckpointError: The name does not end in .safetensors, or is a folder's.
    """
    path = _file_of_arrays(path)
    expect_type(params, Mapping, "save_adapter, params", "give arrays by name, as state.params has them")
    write_text(path.with_name(CONFIG_NAME), json.dumps(dict(config), indent=2) + "\n")
    write_whole(
        path,
        lambda partial: mx.save_safetensors(str(partial), dict(params), metadata={"format": "mlx"}),
    )


def _file_of_arrays(path: Path | str) -> Path:
    """Give the path of a file to write; MLX adds an ending to a name without it, and writes another file."""
    path = Path(path)
    if path.is_dir():
        msg = f"{path}: it is a folder; name a file, such as {path / 'state'}{WEIGHTS_SUFFIX}"
        raise CheckpointError(msg)
    if path.suffix != WEIGHTS_SUFFIX:
        msg = f"{path}: its name does not end in {WEIGHTS_SUFFIX}; name a file, such as {path}{WEIGHTS_SUFFIX}"
        raise CheckpointError(msg)
    return path


def read_arrays(path: Path) -> dict[str, mx.array]:
    """Read a file of arrays; they are loaded when they are used.

    Raises:
        CheckpointError: It is no such file, or only a part of one.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    try:
        # MLX believes what a header says.
        read_header(path)
        return cast("tuple[dict[str, mx.array], dict[str, str]]", mx.load(str(path), return_metadata=True))
    except (HeaderError, RuntimeError) as error:
        msg = f"{path}: cannot be read ({error}); {OTHERWISE}"
        raise CheckpointError(msg) from None


def save_state(path: Path | str, state: TrainState, metadata: RunMetadata | Mapping[str, str] | None = None) -> None:
    """Write a training state, from which a run resumes exactly, and keep the previous one under `before(path)`.

    A process that ends at any moment leaves a whole state under one of the two names.

    Args:
        path: The file.
        state: What it holds.
        metadata: What else is to be known of the run.

    Raises:
        CheckpointError: The name does not end in .safetensors, or is a folder's.
    """
    path = _file_of_arrays(path)
    expect_type(state, TrainState, "save_state", "give the state that init_state or the step returned")
    arrays = dict(tree_flatten(state._asdict()))
    found = metadata.dump() if isinstance(metadata, RunMetadata) else metadata or {}
    strings = {**found, **checksums.SEAL}

    def write(partial: Path) -> None:
        mx.save_safetensors(str(partial), arrays, metadata=strings)
        checksums.seal(partial)
        # Only now, since what is there already may be all that there is.
        sync(partial)
        if path.is_file():
            path.replace(before(path))

    write_whole(path, write)


def before(path: Path) -> Path:
    """Name the training state before the newest one."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


def has_state(path: Path) -> bool:
    """Whether there is a training state to go on from, or was to be."""
    return path.is_file() or before(path).is_file()


@attrs.frozen
class Found:
    """A training state to go on from.

    Attributes:
        path: The file.
        metadata: What it says of its run.
        damaged: Why a newer one was left out; None if there is none.
    """

    path: Path
    metadata: RunMetadata
    damaged: str | None = None


def find_state(path: Path) -> Found:
    """Find the newest complete training state: the one at `path`, or else the previous one.

    Raises:
        CheckpointError: There is none, or none is whole; each is named.
    """
    problems: list[str] = []
    for candidate in (path, before(path)):
        if not candidate.is_file():
            continue
        try:
            metadata = load_metadata(candidate)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return Found(candidate, metadata, problems[0] if problems else None)
    if not problems:
        _refuse_missing(path)
    raise CheckpointError("\n  ".join(problems))


def settle_state(found: Found, path: Path) -> None:
    """Rename the state from which a run resumes to `path`; a damaged state there is removed."""
    if found.path != path:
        found.path.replace(path)
        sync(path.parent)


def load_metadata(path: Path) -> RunMetadata:
    """Read what a training state says of its run, and see whether the file is what was written.

    Raises:
        CheckpointError: There is no such file, or it is damaged.
    """
    _refuse_missing(path)
    if checksums.is_damaged(path):
        msg = f"{path}: cannot be read (its checksum is not that of its content); {OTHERWISE}"
        raise CheckpointError(msg)
    return RunMetadata.load(_read(path)[1], path)


def load_state(path: Path | str, like: TrainState, *, is_checked: bool = False) -> TrainState:
    """Read a training state.

    Args:
        path: As written by `save_state`.
        like: A state of the same run, which gives names, order and shapes: the file's order is another, and would
            cost a trace.
        is_checked: Whether `find_state` or `load_metadata` has just read all of it.

    Raises:
        CheckpointError: No such file, one of another run, or a damaged one.
    """
    path = Path(path)
    expect_type(like, TrainState, "load_state", "give a state of the same run, as init_state makes it")
    if not is_checked:
        load_metadata(path)
    found = read_arrays(path)
    expected: list[tuple[str, mx.array]] = list(tree_flatten(like._asdict()))
    names = {name for name, _ in expected}
    if wrong := sorted(names ^ set(found)):
        msg = f"{path}: does not fit the recipe at {wrong[0]}; was it written with another model, adapter or optimizer?"
        raise CheckpointError(msg)
    for name, value in expected:
        if found[name].shape != value.shape:
            msg = f"{path}: {name} has shape {found[name].shape}, the recipe makes it {value.shape}"
            raise CheckpointError(msg)
    # Not tree_unflatten: it would split the parameters' dotted names.
    return TrainState(
        params={name: found[f"params.{name}"] for name in like.params},
        opt_state=_fill(like.opt_state, "opt_state", found),
        step=found["step"],
    )


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        msg = f"{path}: there is no training state to go on from; leave --resume out to begin anew"
        raise CheckpointError(msg)


def _fill(tree: Any, prefix: str, found: Mapping[str, mx.array]) -> Any:
    if isinstance(tree, Mapping):
        return {name: _fill(value, f"{prefix}.{name}", found) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_fill(value, f"{prefix}.{index}", found) for index, value in enumerate(tree)]
    return found[prefix]
