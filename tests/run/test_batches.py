"""The batches of a run: every row once an epoch, and microbatches that make up one batch."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import losses, make_recipe, run
from vlora.build import load_data
from vlora.events import StepReport

N_ROWS = 7
CheckpointFactory = Callable[[str], Path]


def test_every_row_is_learned_every_epoch(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Two epochs of 7 rows in pairs are 8 steps, and each row's tokens are learned twice."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", train__epochs=2)
    events = run(recipe)
    data = load_data(recipe)
    per_epoch = sum(int(data.encoder(data.train[index]).supervised.sum()) for index in range(N_ROWS))

    reports = [event for event in events if isinstance(event, StepReport)]
    assert len(reports) == 8
    assert sum(report.supervised_tokens for report in reports) == 2 * per_epoch


def test_accumulation_is_one_batch(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Three microbatches of two rows learn what one batch of six learns."""
    one = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "a", train__batch_size=6, data__shuffle=False)
    split = make_recipe(
        checkpoint("qwen3_vl"),
        rows,
        tmp_path / "b",
        train__gradient_accumulation_steps=3,
        data__shuffle=False,
    )

    assert losses(run(split)) == pytest.approx(losses(run(one)), rel=1e-4)
