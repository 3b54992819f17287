"""The command that says what memory a recipe needs."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlora.cli.main import main
from vlora.estimate import plan

Checkpoint = Callable[[str], Path]


def test_it_shows_the_parts(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` prints the parts and ends with 2 where they do not fit."""
    settings = (f"model.path={checkpoint('qwen3_vl')}", "data.path=none.jsonl", "data.max_seq_length=64")
    keys = [word for setting in settings for word in ("--set", setting)]

    assert main(["plan", *keys, "--memory-gb", "0.02"]) == 0
    text = capsys.readouterr().out
    for word in ("weights", "optimizer", "activations", "head and loss", "peak", "fits into 20.00 MB", "longest rows"):
        assert word in text
    assert "measured" not in text
    assert main(["plan", *keys, "--memory-gb", "1e-4"]) == 2
    assert "does not fit into 100.00 kB" in capsys.readouterr().out


def test_one_of_several_devices(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds its part of weights that are divided, and what it gathers."""
    settings = (
        *(f"model.path={checkpoint('qwen3_vl')}", "data.path=none.jsonl"),
        *("data.max_seq_length=64", "train.grad_checkpoint=true"),
    )
    typed = ["plan", *(word for setting in settings for word in ("--set", setting)), "--memory-gb", "0.02"]

    def weights(*options: str) -> tuple[str, float]:
        assert main([*typed, *options]) == 0
        text = capsys.readouterr().out
        return text, sum(float(line.split()[-2]) for line in text.splitlines() if line.startswith("  weights"))

    whole, alone = weights("--devices", "2")
    divided, part = weights("--devices", "2", "--set", "train.shard='params'")

    assert "one of 2 devices\n" in whole
    assert "one of 2 devices, which divide the frozen weights" in divided
    assert "gathered weights" in divided
    assert part < 0.6 * alone
    assert main([*typed, "--devices", "2", "--measure"]) == 2
    assert "--measure: found together with --devices 2" in capsys.readouterr().err


def test_validation_and_answers_stand_beside_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its shape, and with what decides, for people and for programs."""
    settings = (
        *("model.path=builtin:tiny-qwen3-vl", "data.path=builtin:digits", "data.config=digit", "data.split=train[:20]"),
        *("data.valid_split=test[:20]", "eval.answer_rows=12", "eval.batch_size=12", "eval.max_new_tokens=4"),
        *("train.batch_size=2", f"output.path={tmp_path / 'out'}"),
    )
    typed = ["plan", *(word for setting in settings for word in ("--set", setting)), "--memory-gb", "0.001"]

    # Planned once: the same recipe is shown twice.
    monkeypatch.setattr(plan, "make_plan", functools.cache(plan.make_plan))
    assert main([*typed, "--json"]) == 2
    (told,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert [phase["name"] for phase in told["phases"]] == ["validation", "answers"]
    assert told["peak"] == max(phase["nbytes"] for phase in told["phases"])
    assert main(typed) == 2
    lines = capsys.readouterr().out.splitlines()
    (validation,) = (line for line in lines if line.startswith("  validation"))
    (answers,) = (line for line in lines if line.startswith("  answers"))
    assert validation.endswith("2 rows of 32 tokens (the longest of all 20 rows)")
    assert "12 questions of " in answers
    assert "(the longest of 12), 4 new ones each; " in answers
    assert any(line.startswith("  peak") and line.endswith(", in the answers") for line in lines)
