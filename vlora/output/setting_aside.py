"""Files moved into a folder of their own, whole and at one place, at whatever moment the process ends.

What is to be moved is written down first, in one small file; each thing is moved by one rename, and the file is removed
in the end. Where it is found, a process ended between: the run that takes the folder next moves the rest.
"""

import functools
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import attrs

from ..errors import CheckpointError
from ..system.private import open_itself
from .atomic import MODEL_NAME, write_text, write_whole
from .checkpoint import CONFIG_NAME
from .paths import EARLIER_NAME

JOURNAL_NAME = ".setting-aside.json"
UNFINISHED_NAME = ".setting-aside-"


@attrs.frozen(kw_only=True)
class Journal:
    """What is being set aside.

    Attributes:
        number: Of the folder that it goes into.
        moved: Names in the run's folder that are moved into it.
        copied: Names that stay, and of which it has a copy: the run starts from them.
        models: Names of numbered models beside the run's folder, which are renamed.
    """

    number: int
    moved: tuple[str, ...]
    copied: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


def move_all(folder: Path, journal: Journal) -> Path:
    """Move what a journal names out of a run's folder, and give where it is then."""
    write_text(folder / JOURNAL_NAME, json.dumps(attrs.asdict(journal)) + "\n")
    return _carry_out(folder, journal)


def complete(folder: Path) -> Path:
    """Move what a process that ended while it set things aside has left to be moved, and give where it all is.

    Raises:
        CheckpointError: What says what is to be moved was not written by a run.
    """
    return _carry_out(folder, _read_journal(folder / JOURNAL_NAME))


def next_number(folder: Path) -> int:
    """Number the next folder of things that are set aside."""
    return next(number for number in itertools.count(1) if _is_free(folder, number))


def _is_free(folder: Path, number: int) -> bool:
    renamed = f"{folder.name}-{EARLIER_NAME}{number}-"
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    names = (f"{EARLIER_NAME}{number}", f"{UNFINISHED_NAME}{number}")
    return not any(os.path.lexists(folder / name) for name in names) and not any(
        path.name.startswith(renamed) for path in beside
    )


def _carry_out(folder: Path, journal: Journal) -> Path:
    earlier, unfinished = folder / f"{EARLIER_NAME}{journal.number}", folder / f"{UNFINISHED_NAME}{journal.number}"
    if not os.path.lexists(earlier):
        # Hidden, until it has everything: what lies under its own name can be loaded at any moment.
        unfinished.mkdir(exist_ok=True)
        if unfinished.is_symlink():
            msg = f"{unfinished}: is a link, which no run has made; remove it"
            raise CheckpointError(msg)
        for name in journal.copied:
            if not os.path.lexists(unfinished / name):
                write_whole(unfinished / name, functools.partial(_copy, folder / name))
        for name in sorted(journal.moved, key=_turn):
            _move(folder / name, unfinished / name)
        unfinished.rename(earlier)
    for name in journal.models:
        number = name[-7:]
        _move(folder.with_name(name), folder.with_name(f"{folder.name}-{EARLIER_NAME}{journal.number}-{number}"))
    (folder / JOURNAL_NAME).unlink()
    return earlier


def _turn(name: str) -> int:
    """Say when a file is moved: a model is none without the first one, adapters need the last one beside them."""
    return {MODEL_NAME: -1, CONFIG_NAME: 1}.get(name, 0)


def _copy(source: Path, target: Path) -> None:
    shutil.copy2(source, target)


def _move(source: Path, target: Path) -> None:
    """Rename, unless that has been done before; a link is moved itself."""
    if os.path.lexists(source) and not os.path.lexists(target):
        source.rename(target)


def _read_journal(file: Path) -> Journal:
    try:
        with os.fdopen(open_itself(file, os.O_RDONLY), encoding="utf-8") as opened:
            found = json.load(opened)
        lists = {key: tuple(map(str, found[key])) for key in ("moved", "copied", "models")}
        journal = Journal(number=int(found["number"]), **lists)
        numbered = re.compile(rf"{re.escape(file.parent.name)}-\d{{7}}")
        names = [*journal.moved, *journal.copied]
        is_sound = all(name == Path(name).name and name not in ("", "..") for name in names)
        is_sound &= all(map(numbered.fullmatch, journal.models))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        is_sound = False
    if not is_sound:
        msg = f"{file}: is not what a run has written that was setting things aside; remove it"
        raise CheckpointError(msg)
    return journal
