"""Runs with packed rows: the loss and gradients of rows apart, whole epochs, exact resume, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.arrays import load_arrays
from tests.prove import make_subject
from tests.runs import make_recipe, run
from tests.training import Trainable, make_trainable, picture
from vlora import Recipe, collate, make_optimizer, make_train_step
from vlora.data.collate import collate_packed
from vlora.errors import CheckpointError, RecipeError
from vlora.events import Event, Finished, Reported, Started, StepReport
from vlora.models.forward import segments
from vlora.models.forward.attention_masks import attend_fused
from vlora.models.forward.overrides import attending
from vlora.output.paths import METRICS_NAME, STATE_NAME
from vlora.recipe.schema import OptimSection
from vlora.train import chunked_head

CheckpointFactory = Callable[[str], Path]
N_ROWS = 11


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows of different lengths, one in three without an image."""
    lines = []
    for number in range(N_ROWS):
        row = {"question": f"What is number {number}?", "answer": f"it is {'very ' * (number % 4)}{number}"}
        if number % 3:
            picture(32 + 16 * (number % 2), 32, number).save(tmp_path / f"{number}.png")
            row["image"] = f"{number}.png"
        lines.append(json.dumps(row))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines))
    return file


def packed_recipe(model: Path, rows: Path, output: Path, **overrides: Any) -> Recipe:
    """Make the recipe of two epochs of packed rows."""
    keys = {
        "data__max_seq_length": 160,
        "train__batch_size": 1,
        "train__batching": "packed",
        "train__epochs": 2,
        "train__steps_per_report": 10,
    }
    return make_recipe(model, rows, output, **(keys | overrides))


def reports(events: list[Event]) -> list[StepReport]:
    """List the steps."""
    return [event for event in events if isinstance(event, StepReport)]


def gradients(trainable: Trainable, batch: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Compute the mean loss and its gradient through a compiled step."""
    step = make_train_step(trainable.backbone, make_optimizer(OptimSection(name="sgd", betas=(0.0, 0.0))))
    state, output = step(trainable.state, batch, 1.0)
    before = trainable.state.params
    return (
        float(output.nll_sum / output.n_supervised),
        {name: np.array(before[name] - value) for name, value in state.params.items()},
    )


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        pytest.param("qwen3_vl", {"model__full_finetune": True, "model__train_vision": True}, id="grid"),
        pytest.param("llava", {"model__full_finetune": True, "model__train_vision": True}, id="rows"),
        pytest.param("gemma3", {}, id="windows"),
    ],
)
@pytest.mark.parametrize("most_scores", [0.0, float("inf")], ids=["masked", "apart"])
def test_packed_rows_have_the_gradients_of_rows_apart(
    family: str,
    overrides: dict[str, Any],
    most_scores: float,
    checkpoint: CheckpointFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With rows as the processor writes them, the tower and the embeddings trained or not, the head in chunks."""
    monkeypatch.setattr(segments, "MOST_SCORES", most_scores)
    trainable = make_trainable(checkpoint(family), **overrides)
    rows = trainable.examples
    loss, expected = gradients(trainable, collate(rows))
    monkeypatch.setattr(chunked_head, "HEAD_BYTES", 0)
    monkeypatch.setattr(chunked_head, "FEWEST_HEAD_ROWS", 5)
    packed_loss, packed = gradients(trainable, collate_packed([rows[::-1]]))
    largest = max(np.abs(value).max() for value in expected.values())

    assert packed_loss == pytest.approx(loss, rel=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(packed[name], value, atol=1e-4 * np.abs(value).max() + 1e-6 * largest, err_msg=name)


def test_epochs_learn_every_row(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Two epochs are two passes over all rows, in fewer steps than there are rows, and end with the last rate."""
    recipe = packed_recipe(
        checkpoint("qwen3_vl"), rows, tmp_path / "out", optim__schedule="linear", train__pack_length=192
    )
    events = run(recipe)
    taken = reports(events)
    started = next(event for event in events if isinstance(event, Started))
    finished = next(event for event in events if isinstance(event, Finished))
    apart = run(packed_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "apart", train__batching="shuffled"))

    assert sum(step.supervised_tokens for step in taken) == sum(step.supervised_tokens for step in reports(apart))
    assert len(taken) < N_ROWS
    assert finished.step == finished.n_steps == len(taken)
    assert started.is_estimated
    assert 1 < started.n_steps < 2 * N_ROWS
    assert taken[-1].n_steps == len(taken)
    rates = [step.learning_rate for step in taken]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(recipe.optim.learning_rate / len(taken))
    assert taken[-1].loss < taken[0].loss


def test_resume_is_exact(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A packed run that was stopped goes on bit for bit: rows that waited, order, rates, dropout."""
    options: dict[str, Any] = {
        "lora__dropout": 0.2,
        "optim__schedule": "cosine",
        "train__gradient_accumulation_steps": 2,
        "train__epochs": 4,
    }
    straight = packed_recipe(checkpoint("llava"), rows, tmp_path / "straight", **options)
    stopped = packed_recipe(checkpoint("llava"), rows, tmp_path / "stopped", **options)
    expected = reports(run(straight))
    calls = iter([False, False, True])
    first = run(stopped, should_stop=lambda: next(calls))
    second = run(stopped, resume=True)
    weights = [load_arrays(tmp_path / name / "adapters.safetensors") for name in ("straight", "stopped")]
    last = json.loads((tmp_path / "stopped" / METRICS_NAME).read_text().splitlines()[-1])
    after = run(stopped, resume=True)

    found = [*reports(first), *reports(second)]
    assert [(step.loss, step.learning_rate) for step in found] == [(step.loss, step.learning_rate) for step in expected]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
    assert last["step"] == len(expected)
    assert [event.n_steps for event in after if isinstance(event, (Started, Finished))] == [len(expected)] * 2


def test_state_of_another_batching_is_refused(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Packed rows go on from a state of packed rows only, and others from one of others; without notes, too."""
    packed = packed_recipe(checkpoint("llava"), rows, tmp_path / "packed", train__epochs=1)
    other = packed_recipe(checkpoint("llava"), rows, tmp_path / "packed", train__epochs=1, train__batching="shuffled")
    run(packed, should_stop=lambda: True)
    with pytest.raises(CheckpointError, match=r"train\.batching: 'packed' then, 'shuffled' now"):
        run(other, resume=True)
    run(other, should_stop=lambda: True)
    with pytest.raises(CheckpointError, match=r"train\.batching: 'shuffled' then, 'packed' now"):
        run(packed, resume=True)
    state = tmp_path / "packed" / STATE_NAME
    arrays = load_arrays(state)
    mx.eval(arrays)
    mx.save_safetensors(str(state), arrays)
    with pytest.raises(CheckpointError, match=r"train\.batching: found 'packed'.* neither packed nor streamed"):
        run(packed, resume=True)


def test_what_does_not_pack_is_refused(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A family whose layers mix tokens otherwise than by attention is refused before its weights are read."""
    with pytest.raises(RecipeError, match=r"train\.batching.*qwen3_5.*'grouped'"):
        run(packed_recipe(checkpoint("qwen3_5"), rows, tmp_path / "out"))


@pytest.mark.parametrize("family", ["qwen3_vl", "youtu_vl"])
def test_masks_are_added_where_they_are_used(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an NVIDIA GPU: the logits are the same, of a model that chooses by the mask before it attends, too."""
    monkeypatch.setattr(segments, "MOST_SCORES", 0.0)
    subject, masks = make_subject(family), []
    subject.backbone.module.set_dtype(mx.bfloat16)
    batch = collate_packed([list(subject.examples)])
    differentiable, auxiliary = subject.backbone.embed(batch)
    attend = mx.fast.scaled_dot_product_attention

    def attend_and_tell(*args: Any, mask: mx.array | str | None = None, **kwargs: Any) -> mx.array:
        masks.append(mask)
        return attend(*args, mask=mask, **kwargs)

    def run_model() -> mx.array:
        masks.clear()
        return subject.backbone.logits(batch.tokens, differentiable, auxiliary, batch.targets.positions)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", attend_and_tell)
    expected = run_model()
    with attending(subject.backbone.module, attend_fused):
        found = run_model()

    assert all(isinstance(mask, mx.array) and mask.dtype == mx.bfloat16 for mask in masks)
    assert masks
    np.testing.assert_allclose(found.astype(mx.float32), expected.astype(mx.float32), rtol=0.02, atol=0.02)


def test_packed_rows_validate(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Validation packs too, all rows once, to the loss of rows apart."""
    found = {}
    for batching in ("shuffled", "packed"):
        recipe = packed_recipe(
            checkpoint("llava"),
            rows,
            tmp_path / batching,
            train__batching=batching,
            train__val_batches=-1,
            data__valid_path=str(rows),
        )
        metrics = [event.metrics for event in run(recipe, should_stop=lambda: True) if isinstance(event, Reported)]
        found[batching] = next(line for line in metrics if "valid_loss" in line)

    assert found["packed"]["valid_loss"] == pytest.approx(found["shuffled"]["valid_loss"], rel=1e-5)
    assert found["packed"]["valid_tokens"] == found["shuffled"]["valid_tokens"]
    assert found["packed"]["valid_rows"] == N_ROWS
