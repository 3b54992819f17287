"""The command that says which proofs a new release breaks."""

import pytest

from tests.prove import summarize

HOLDS, FAILS = {"holds": "yes", "remark": ""}, {"holds": "no", "remark": "off by 1"}


def test_broken_proofs_are_listed_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """By family, with the releases that are installed and those that all proofs held with; others have no line."""
    summarize({"a": {"logits": HOLDS}, "b": {"logits": FAILS, "packs": HOLDS, "LoRA": FAILS}}, 3.0)
    first, second, *broken = capsys.readouterr().out.splitlines()

    assert first.startswith("2 families in 3 s with mlx ")
    assert second.startswith("these do not hold; all did with mlx ")
    assert broken == ["    b: logits, LoRA"]


def test_nothing_is_listed_where_all_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """One line is the whole summary then."""
    summarize({"a": {"logits": HOLDS}}, 3.0)

    assert len(capsys.readouterr().out.splitlines()) == 1
