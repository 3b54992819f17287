"""What an earlier run has left in a folder when another one begins there."""

from collections.abc import Generator
from pathlib import Path

import pytest

from vlora.events import Warned
from vlora.output.paths import OutputPaths
from vlora.run.files import clear_up


def paths_of(folder: Path, *, has_state: bool) -> OutputPaths:
    """Make a run's folder, with what a killed run had begun to write."""
    paths = OutputPaths(folder=folder, weights=folder / "adapters.safetensors")
    paths.state.parent.mkdir(parents=True)
    (folder / ".partial-adapters.safetensors").write_text("half of it")
    if has_state:
        paths.state.write_text("a state")
    return paths


@pytest.mark.parametrize(
    ("resume", "or_start", "has_state", "expected"),
    [
        (False, False, True, False),
        (True, False, True, True),
        (True, True, True, True),
        (True, True, False, False),
        # That there is none is told where it is read.
        (True, False, False, True),
    ],
)
def test_what_is_gone_on_from(tmp_path: Path, *, resume: bool, or_start: bool, has_state: bool, expected: bool) -> None:
    """A run begins anew without a state only where it may; what was not whole is removed always."""
    paths = paths_of(tmp_path / "run", has_state=has_state)

    def take() -> Generator[Warned, None, None]:
        assert (yield from clear_up(paths, resume=resume, or_start=or_start)) is expected

    list(take())
    assert not list(paths.folder.glob(".partial-*"))
