"""The command that says what memory a recipe needs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vlora.cli.main import main

Checkpoint = Callable[[str], Path]


def test_it_shows_the_parts(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` prints the parts and ends with 2 where they do not fit."""
    settings = (f"model.path={checkpoint('qwen3_vl')}", "data.path=none.jsonl", "data.max_seq_length=64")
    keys = [word for setting in settings for word in ("--set", setting)]

    assert main(["plan", *keys, "--memory-gb", "0.02"]) == 0
    text = capsys.readouterr().out
    for word in ("weights", "optimizer", "activations", "head and loss", "peak", "fits into 20.00 MB", "longest rows"):
        assert word in text
    assert main(["plan", *keys, "--memory-gb", "1e-4"]) == 2
    assert "does not fit into 100.00 kB" in capsys.readouterr().out
