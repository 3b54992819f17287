"""Files of a run: adapters, training states, recipes. They appear whole or not at all."""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from ..errors import CheckpointError
from ..system.private import open_itself
from ..system.safetensors_header import HeaderError, read_header
from ..types import TrainState
from . import checksums

CONFIG_NAME = "adapter_config.json"
PARTIAL = ".partial-"
"""Begins the names of what is not whole."""

MODEL_NAME = "config.json"
"""The file that makes a folder a model's."""

OTHERWISE = "take another checkpoint, or make this one anew"


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a hidden name beside `path`, then rename it: readers see the old file or the new one.

    It is on the disk, and not only on its way there, before it is renamed, and under its name when this returns.

    Args:
        path: The file; its folder is made if need be.
        write: Writes to the path that it is given.

    Raises:
        OSError: It could not be written; of what was begun nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: MLX chooses its format by it.
    partial = path.with_name(f"{PARTIAL}{path.name}")
    with _naming(path, partial):
        remove(partial)
        write(partial)
        sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_whole_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder under a hidden name, then rename it into place; files of an older one that it lacks are kept.

    Args:
        folder: The folder.
        write: Fills the empty folder that it is given.

    Raises:
        OSError: As for `write_whole`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{PARTIAL}{folder.name}")
    remove(partial)
    partial.mkdir()
    with _naming(folder, partial):
        write(partial)
        for file in partial.iterdir():
            sync(file)
        sync(partial)
    if folder.exists():
        if len(list(partial.glob("*.safetensors"))) > 1:
            # No model, until all files of its weights are of the same step.
            (folder / MODEL_NAME).unlink(missing_ok=True)
        # Last what makes the folder a model: one that lacks a file is none.
        for file in sorted(partial.iterdir(), key=lambda file: (file.name == MODEL_NAME, file.name)):
            file.replace(folder / file.name)
        partial.rmdir()
        sync(folder)
    else:
        partial.replace(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until what was written to a file, or the names in a folder, would outlast a loss of power.

    Raises:
        OSError: It was not written. File systems that cannot say so of folders are believed.
    """
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        if sys.platform == "darwin":
            import fcntl

            # There fsync leaves it in the disk's own memory. Network drives know this command only.
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Give an error of writing the file's name, which it lacks on a full disk; remove what was begun."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if partial is not None:
            remove(partial)
        if isinstance(error, OSError) and error.filename is not None:
            raise
        # MLX raises a RuntimeError, without a number.
        code, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (errno.EIO, str(error))
        raise OSError(code, reason, str(path)) from error


def remove(path: Path) -> None:
    """Remove what a process that was ended has left; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Add to a text file, which is not a link to one."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with _naming(path), os.fdopen(open_itself(path, flags), "a", encoding="utf-8") as file:
        file.write(text)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda partial: _ignore(partial.write_text(text, encoding="utf-8")))


def save_adapter(path: Path | str, params: Mapping[str, mx.array], config: Mapping[str, Any]) -> None:
    """Write an adapter as mlx-vlm reads it: its arrays, and `adapter_config.json` beside them.

    Args:
        path: A file ending in .safetensors.
        params: Qualified names to f32 arrays.
        config: What mlx-vlm needs to attach the same layers.
    """
    path = Path(path)
    write_text(path.with_name(CONFIG_NAME), json.dumps(dict(config), indent=2) + "\n")
    write_whole(
        path,
        lambda partial: mx.save_safetensors(str(partial), dict(params), metadata={"format": "mlx"}),
    )


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


def save_state(path: Path | str, state: TrainState, notes: Mapping[str, str] | None = None) -> None:
    """Write a training state, from which a run goes on exactly, and keep the one before it under `before(path)`.

    A process that ends at any moment leaves a whole state under one of the two names.

    Args:
        path: The file.
        state: What it holds.
        notes: What else is to be known of the run.
    """
    path = Path(path)
    arrays = dict(tree_flatten(state._asdict()))
    metadata = {**(notes or {}), **checksums.SEAL}

    def write(partial: Path) -> None:
        mx.save_safetensors(str(partial), arrays, metadata=metadata)
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
        notes: What `save_state` was given.
        damaged: Why a newer one was left out; None if there is none.
    """

    path: Path
    notes: Mapping[str, str]
    damaged: str | None = None


def find_state(path: Path) -> Found:
    """Find the newest training state that is whole: the one at `path`, or else the one before it.

    Raises:
        CheckpointError: There is none, or none is whole; each is named.
    """
    problems: list[str] = []
    for candidate in (path, before(path)):
        if not candidate.is_file():
            continue
        try:
            notes = load_notes(candidate)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return Found(candidate, notes, problems[0] if problems else None)
    if not problems:
        _refuse_missing(path)
    raise CheckpointError("\n  ".join(problems))


def settle_state(found: Found, path: Path) -> None:
    """Give the state that a run goes on from its name, `path`; a damaged one that stands there goes."""
    if found.path != path:
        found.path.replace(path)
        sync(path.parent)


def load_notes(path: Path) -> dict[str, str]:
    """Read the notes that `save_state` was given, and see whether the file is what was written.

    Raises:
        CheckpointError: There is no such file, or it is damaged.
    """
    _refuse_missing(path)
    if checksums.is_damaged(path):
        msg = f"{path}: cannot be read (its checksum is not that of its content); {OTHERWISE}"
        raise CheckpointError(msg)
    return {name: note for name, note in _read(path)[1].items() if name not in checksums.SEAL}


def load_state(path: Path | str, like: TrainState, *, is_checked: bool = False) -> TrainState:
    """Read a training state.

    Args:
        path: As written by `save_state`.
        like: A state of the same run, which gives names, order and shapes: the file's order is another, and would
            cost a trace.
        is_checked: Whether `find_state` or `load_notes` has just read all of it.

    Raises:
        CheckpointError: No such file, one of another run, or a damaged one.
    """
    path = Path(path)
    if not is_checked:
        load_notes(path)
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


def _ignore(_: object) -> None:
    """Drop a result."""
