"""The benchmark of answers asks the same questions in both ways."""

import json
from pathlib import Path

import pytest

from benchmarks.answers import main


def test_both_ways_answer_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last line has the seconds of all turns, and how many answers are the same."""
    monkeypatch.chdir(tmp_path)
    assert main(["--rows", "4", "--turns", "2"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert found["rows"] == found["same"] == 4
    assert {len(seconds) for kind in ("clock", "processor") for seconds in found[kind].values()} == {2}
    assert not (tmp_path / "unwritten").exists()
