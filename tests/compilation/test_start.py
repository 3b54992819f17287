"""Workers are started for as many kernels as are missing, and no more than there are cores."""

import json
import subprocess
from pathlib import Path
from typing import Any, Self

import pytest

from vlora.compilation import start
from vlora.compilation.kernel_list import Known


class Started:
    """Stands for a worker, with what it was given."""

    def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
        """Take a command down."""
        self.command, self.env, self.lines = command, env, ""
        self.stdin = self

    def __enter__(self) -> Self:
        """Open its input."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""

    def write(self, text: str) -> None:
        """Take its input down."""
        self.lines = text


@pytest.mark.parametrize(("n_cores", "n_missing", "n_workers", "together"), [(2, 5, 2, "3"), (8, 3, 3, "1")])
def test_kernels_are_shared_out(
    n_cores: int, n_missing: int, n_workers: int, together: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker knows all of them and takes some at a time, in a folder and a temporary folder of its own."""
    monkeypatch.setattr(start, "_n_cores", lambda: n_cores)
    monkeypatch.setattr(subprocess, "Popen", Started)
    missing = [Known("cpu", f"name{number}", "", ("int32 1",)) for number in range(n_missing)]

    workers: Any = start.start_workers("cpu", tmp_path / "kernels", tmp_path, missing)

    assert len(workers) == n_workers
    assert {worker.command[-1] for worker in workers} == {together}
    assert [worker.env["TMPDIR"] for worker in workers] == [str(tmp_path / str(number)) for number in range(n_workers)]
    assert all((tmp_path / str(number)).is_dir() for number in range(n_workers))
    assert [json.loads(line)[0] for line in workers[0].lines.splitlines()] == [known.name for known in missing]
