"""Inputs made at random end as each says before it runs; a short form of `python -m benchmarks.fuzz`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz.trials import ERR_NAME, LEARNED_NAME, TRIAL_NAME, Ended, judge

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_inputs_of_every_kind_end_as_they_say() -> None:
    """A few of each kind, through the command line, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--seed", "20", "--count", "16"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    found = json.loads(lines[-1])

    assert done.returncode == 0, done.stdout + done.stderr
    assert found["failed"] == 0
    assert found["kinds"][-1]["inputs"] == 16
    assert {row["kind"] for row in found["kinds"]} >= {
        "recipes",
        "rows",
        "messages",
        "images",
        "models",
        "adapters",
        "states",
        "streams",
    }


@pytest.mark.parametrize(
    ("expected", "ended", "verdict"),
    [
        ("refused", {"status": 2, "err": "vlora: a.json: no"}, "as expected"),
        ("refused", {"status": 0}, "wrong"),
        ("refused", {"status": 2, "err": "vlora: something else"}, "wrong"),
        ("refused", {"status": 2, "err": "vlora: a.json\nand a line that belongs to nothing"}, "wrong"),
        ("refused", {"status": 2, "err": "vlora: a.json " + "x" * 9000}, "wrong"),
        ("refused", {"status": 1, "err": "Traceback (most recent call last):\nKeyError: 'a'"}, "traceback"),
        ("refused", {"status": 1, "err": "vlora: unforeseen KeyError"}, "traceback"),
        ("accepted", {"status": -11}, "crash"),
        ("accepted", {"status": -9, "is_hung": True}, "hang"),
        ("accepted", {"status": 0}, "as expected"),
        ("learned", {"status": 0}, "as expected"),
        ("learned", {"status": 2}, "wrong"),
    ],
)
def test_outcomes_are_judged(expected: str, ended: dict[str, Any], verdict: str, tmp_path: Path) -> None:
    """What did not end as it said is found, whichever way it ended."""
    says = ["a.json"] if expected == "refused" else []
    conversations = ["a", "b"] if expected == "learned" else []
    trial = {"what": "", "arguments": [], "expected": expected, "says": says, "conversations": conversations}
    (tmp_path / TRIAL_NAME).write_text(json.dumps(trial))
    (tmp_path / LEARNED_NAME).write_text(json.dumps(conversations))
    default: dict[str, Any] = {"seconds": 1.0, "is_hung": False, "out": "", "err": ""}
    assert judge("rows", 3, tmp_path, Ended(**(default | ended))).verdict == verdict


def test_other_learned_text_is_wrong(tmp_path: Path) -> None:
    """A row that teaches something else, one more and one less are found."""
    trial = {"what": "", "arguments": [], "expected": "learned", "says": [], "conversations": ["a", None]}
    (tmp_path / TRIAL_NAME).write_text(json.dumps(trial))
    ended = Ended(status=2, seconds=1.0, is_hung=False, out="", err="")
    for learned, verdict in (
        (["a", None], "as expected"),
        (["a", "b"], "wrong"),
        (["A", None], "wrong"),
        (["a"], "wrong"),
    ):
        (tmp_path / LEARNED_NAME).write_text(json.dumps(learned))
        assert judge("rows", 3, tmp_path, ended).verdict == verdict
    (tmp_path / TRIAL_NAME).unlink()
    (tmp_path / ERR_NAME).write_text("ValueError: no")
    assert judge("rows", 3, tmp_path, ended).verdict == "wrong"
