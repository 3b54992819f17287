"""The numbered checkpoints that a run has written, of which the newest ones may be all that stay."""

import json
from collections.abc import Collection
from pathlib import Path

import attrs

from .atomic import MODEL_NAME, sync
from .paths import OutputPaths


@attrs.define
class Numbered:
    """The numbered checkpoints of a run that are there.

    Attributes:
        steps: Their steps, in order.
        files: Names of the files that each has, where it is a model's folder.
    """

    steps: list[int] = attrs.field(factory=list)
    files: tuple[str, ...] = ()

    def add(self, step: int) -> None:
        """Take note of the checkpoint of a step, before it is written: the state that is saved with it knows of it."""
        if step not in self.steps:
            self.steps.append(step)

    def dumps(self) -> str:
        """Write it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Numbered":
        """Read what `dumps` wrote."""
        found = json.loads(text)
        return cls([int(step) for step in found["steps"]], tuple(map(str, found["files"])))

    def keep_newest(self, n_kept: int | None, paths: OutputPaths, spared: Collection[Path]) -> list[str]:
        """Remove all but the newest checkpoints; done again after a kill, it removes what it had left.

        Args:
            n_kept: How many stay; None for all.
            paths: Where the run writes.
            spared: Files and folders that the run starts from.

        Returns:
            Of those that could not be removed, why.
        """
        older, problems = [] if n_kept is None else self.steps[:-n_kept], []
        for path in map(paths.numbered, older):
            if path.resolve() in spared:
                continue
            try:
                _remove_files([path] if paths.is_adapter else _order(path, self.files))
                if not paths.is_adapter:
                    _remove_empty(path)
            except OSError as error:
                problems.append(f"{path}: output.keep_last lets it go, and it cannot be removed ({error.strerror})")
        self.steps = self.steps[len(older) :]
        return problems


def _order(folder: Path, names: Collection[str]) -> list[Path]:
    """List the files of a model's folder, first the one without which it is none; none of a link to a folder."""
    if folder.is_symlink():
        return []
    return [folder / Path(name).name for name in sorted(names, key=lambda name: name != MODEL_NAME)]


def _remove_files(files: Collection[Path]) -> None:
    """Remove files of a run; a link, or a folder, is none."""
    for file in files:
        if file.is_file() and not file.is_symlink():
            file.unlink()
            sync(file.parent)


def _remove_empty(folder: Path) -> None:
    """Remove a folder in which nothing is left; what somebody else has put there stays, and with it the folder."""
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()
        sync(folder.parent)
