"""A traceback from the loss is short enough to be read."""

import json
from pathlib import Path

import pytest

from benchmarks.frames import frames_to_loss
from vlora.build import BUILTIN_MODEL

MOST = 8
"""Functions of vlora's from `python -m vlora` to the loss."""


def test_the_loss_is_few_functions_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them does something: command, run, loop, step, gradients, model, a chunk of its head."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"question": "Which?", "answer": str(number)}) for number in range(4)))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[model]\npath = "{BUILTIN_MODEL}"\n[data]\npath = "{rows}"\n')

    frames = frames_to_loss(str(recipe))

    capsys.readouterr()
    assert [frame.split()[0] for frame in frames[-5:]] == [
        "train/loop.py",
        "train/step.py",
        "train/step.py",
        "train/chunked_head.py",
        "train/chunked_head.py",
    ]
    assert len(frames) <= MOST, frames
