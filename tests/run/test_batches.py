"""The batches of a run: every row once an epoch, and microbatches that make up one batch."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.runs import losses, make_recipe, run
from vlora import init_state, make_optimizer, make_train_step
from vlora.build import load_data, load_model
from vlora.data.prefetch import WorkerPool
from vlora.events import StepReport
from vlora.models.forward.segments import count_causal
from vlora.run.batches import make_loader, make_source
from vlora.train.objectives.named import find_objective
from vlora.train.reference import make_reference

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


def test_no_thread_asks_whether_rows_are_joined(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is found in the run's own thread, before others read rows: it replaces parts of the model."""
    threads: list[threading.Thread] = []

    def watched(*args: Any) -> int:
        threads.append(threading.current_thread())
        return count_causal(*args)

    monkeypatch.setattr("vlora.models.backbone.backbone.count_causal", watched)
    run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__workers=2, train__iters=2))

    assert threads == [threading.main_thread()]


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


@pytest.mark.parametrize("batching", ["shuffled", "grouped"])
def test_a_last_row_that_is_alone_has_its_divergence(
    batching: str, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """Seven rows in pairs: the one that is left has the answer of another row, the same one when a run goes on."""
    lines = [json.loads(line) | {"label": number % 2} for number, line in enumerate(rows.read_text().splitlines())]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    keys = {"train__objective": "kto", "train__batching": batching, "train__epochs": 2}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **keys)
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    loader = make_loader(recipe, data, backbone, WorkerPool(0), 1)
    found = []
    for first in (0, 3):
        steps = make_source(recipe, loader, data.encoder, first, "")
        found.append([[row.source for batch in step for row in batch.rows] for step in steps])

    assert found[0][3:] == found[1]
    assert [len(step) for step in found[0]].count(2) == 2
    for step in found[0]:
        pairs = [source.split(" with the answer of ") for source in step[1::2]]
        assert [own for own, _ in pairs] == step[::2]
        assert all(own != other for own, other in pairs)


def test_a_device_without_a_row_runs_what_another_thread_has_made(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """KTO's stand-in has all that its loss reads, whichever thread makes it, and adds nothing."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", train__objective="kto")
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    loader = make_loader(recipe, data, backbone, WorkerPool(0), 2)
    assert loader.stand_in is not None
    with ThreadPoolExecutor(1) as thread:
        batch = thread.submit(loader.stand_in).result()
    optimizer = make_optimizer(recipe.optim)
    state = init_state(backbone, optimizer)
    reference = make_reference(recipe, backbone, state.params)
    loss = find_objective("kto", recipe.preference)
    step = make_train_step(backbone, optimizer, loss=loss, reference=reference, compiled=False)
    total = step.accumulate(state, batch)

    assert (float(total.loss), float(total.count)) == (0.0, 0.0)
