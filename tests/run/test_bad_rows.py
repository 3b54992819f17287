"""Rows that cannot be read: found before anything is validated, passed over by the answers, too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest
from tokenizers import AddedToken, Tokenizer

from tests.arrays import load_arrays
from tests.runs import losses, make_recipe, run
from tests.training import picture
from vlora import fit
from vlora.errors import SampleError
from vlora.events import Event, Finished, Generated, Reported, Saved, Skipped, Warned, Working
from vlora.models import build_tiny_qwen3_vl
from vlora.output.paths import METRICS_NAME

CheckpointFactory = Callable[[str], Path]
N_ROWS = 5


def write_rows(folder: Path, name: str, *, missing: tuple[int, ...] = ()) -> Path:
    """Write rows of which some name an image that is not there."""
    lines = []
    for number in range(N_ROWS):
        image = f"{name}-{number}.png"
        if number not in missing:
            picture(32, 32, number).save(folder / image)
        lines.append(json.dumps({"image": image, "question": f"What is {number}?", "answer": f"it is {number}"}))
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize("batching", ["shuffled", "grouped", "packed"])
def test_a_bad_first_row_is_found_before_the_validation(
    batching: str, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """The rows of the first step are read before anything is asked, validated or written."""
    rows = write_rows(tmp_path, "rows", missing=tuple(range(N_ROWS)))
    valid = write_rows(tmp_path, "valid")
    options = {"data__valid_path": str(valid), "eval__answer_rows": 1, "train__batching": batching}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options)
    events: list[Event] = []
    with pytest.raises(SampleError, match=r"rows\.jsonl train row \d: line \d of rows\.jsonl: cannot read the image"):
        events.extend(fit(recipe))

    assert not [event for event in events if not isinstance(event, Working)]
    assert not (tmp_path / "out" / METRICS_NAME).exists()


@pytest.mark.parametrize("batching", ["shuffled", "packed"])
def test_a_run_needs_a_row_to_learn_from(batching: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Where all rows are bad, skipping them is no way to an adapter; where one is good, the run finds it."""
    rows = write_rows(tmp_path, "rows", missing=tuple(range(N_ROWS)))
    options = {"data__on_bad_row": "skip", "train__batch_size": 1, "train__epochs": 1, "train__batching": batching}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options)
    with pytest.raises(
        SampleError, match=r"rows\.jsonl train: none of the first 5 rows .* was rows\.jsonl train row \d"
    ):
        run(recipe)
    assert not (tmp_path / "out").exists()

    events = run(
        attrs.evolve(
            recipe, data=attrs.evolve(recipe.data, path=str(write_rows(tmp_path, "one", missing=(0, 2, 3, 4))))
        )
    )
    assert len(losses(events)) == 1
    assert len([event for event in events if isinstance(event, Skipped)]) == N_ROWS - 1


def test_a_resumed_run_may_end_with_bad_rows(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Steps that are passed over at the end of a run are passed over when it goes on, too."""
    rows = write_rows(tmp_path, "rows", missing=(4,))
    options = {"data__on_bad_row": "skip", "train__batch_size": 1, "train__epochs": 1, "data__shuffle": False}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options)
    calls = iter([False, False, False, True])
    run(recipe, should_stop=lambda: next(calls))
    events = run(recipe, resume=True)

    assert not losses(events)
    assert [(event.step, event.n_steps) for event in events if isinstance(event, Finished)] == [(N_ROWS, N_ROWS)]


@pytest.mark.parametrize("batching", ["shuffled", "grouped"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_steps_before_a_bad_row_are_kept(
    batching: str, workers: int, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """They are saved and reported before the error, and go on without the row as if it had been skipped at once."""
    rows = write_rows(tmp_path, "rows", missing=(3,))
    options = {
        "train__batch_size": 1,
        "train__epochs": 1,
        "train__batching": batching,
        "train__steps_per_report": 1000,
        "train__steps_per_save": 1000,
        "data__shuffle": batching == "grouped",
        "data__workers": workers,
        "data__max_seq_length": 64,
    }
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options)
    events: list[Event] = []
    with pytest.raises(SampleError, match=r"row 3: .*steps before it are saved, and --resume goes on"):
        events.extend(fit(recipe))
    saved = [event for event in events if isinstance(event, Saved)]
    assert len(saved) == 1
    assert saved[0].step == len(losses(events)) > 0
    assert any(isinstance(event, Reported) and event.metrics["step"] == saved[0].step for event in events)

    skipping = attrs.evolve(recipe.data, on_bad_row="skip")
    run(attrs.evolve(recipe, data=skipping), resume=True)
    whole = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "whole", **options, data__on_bad_row="skip")
    run(whole)

    for one, other in zip(*(load_adapter(tmp_path / name) for name in ("out", "whole")), strict=True):
        assert one[0] == other[0]
        assert mx.array_equal(one[1], other[1])


def load_adapter(folder: Path) -> list[tuple[str, mx.array]]:
    """Load an adapter."""
    return sorted(load_arrays(folder / "adapters.safetensors").items())


def test_no_row_to_validate_on(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A validation without a row that can be read is no loss of zero: it is said, and written nowhere."""
    rows, valid = write_rows(tmp_path, "rows"), write_rows(tmp_path, "valid", missing=tuple(range(N_ROWS)))
    options = {"data__on_bad_row": "skip", "data__valid_path": str(valid), "train__iters": 1}
    events = run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options))
    notes = [event.message for event in events if isinstance(event, Warned)]

    assert not [event for event in events if isinstance(event, Reported) and "valid_loss" in event.metrics]
    assert len([note for note in notes if "valid.jsonl" in note and "none can be learned from" in note]) == 2


@pytest.mark.parametrize("missing", [(0,), (4,), (1, 2)])
def test_answers_skip_bad_rows(missing: tuple[int, ...], checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """With on_bad_row = "skip" the rows that can be read are asked; the others are told and counted each time."""
    rows, valid = write_rows(tmp_path, "rows"), write_rows(tmp_path, "valid", missing=missing)
    options = {"data__valid_path": str(valid), "eval__answer_rows": -1, "eval__max_new_tokens": 1, "train__iters": 1}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__on_bad_row="skip", **options)
    events = run(recipe)
    answers = [event for event in events if isinstance(event, Generated)]
    metrics = [event.metrics for event in events if isinstance(event, Reported)]
    reasons = [event.reason for event in events if isinstance(event, Skipped)]
    n_good, n_rounds = N_ROWS - len(missing), 4  # of answers two, and two of validation

    assert [(event.when, event.done) for event in answers] == [
        (when, done) for when in ("before", "after") for done in range(1, n_good + 1)
    ]
    assert [event.total for event in answers if event.done == n_good] == [n_good] * 2
    assert {f"it is {number}" for number in range(N_ROWS) if number not in missing} == {
        event.expected for event in answers
    }
    assert [set(line) - {"step", "unix_time"} for line in metrics if "accuracy_before" in line] == [
        {"accuracy_before"},
        {"accuracy_before", "accuracy_after"},
    ]
    assert all(any(reason.startswith(f"valid.jsonl train row {number}") for reason in reasons) for number in missing)
    assert len(reasons) == n_rounds * len(missing)
    assert [event.n_skipped for event in events if isinstance(event, Finished)] == [len(reasons)]


def test_steps_without_a_row_are_told(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The first by a note, all in the metrics and at the end; also in later epochs, which name no row again."""
    rows = write_rows(tmp_path, "rows", missing=(2, 3))
    options: dict[str, Any] = {"data__on_bad_row": "skip", "data__shuffle": False, "train__epochs": 2}
    options |= {"train__batch_size": 1, "train__steps_per_report": 1}
    events = run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options))
    lines = [event.metrics for event in events if isinstance(event, Reported) and "device" not in event.metrics]
    told = [event.message for event in events if isinstance(event, Warned)]

    assert [(line["step"], "loss" in line, line.get("steps_passed_over")) for line in lines] == [
        (step, step not in (3, 4, 8, 9), 1 if step in (3, 4, 8, 9) else None) for step in range(1, 11)
    ]
    assert [message for message in told if "passed over" in message] == [
        "step 3 was passed over, since none of its rows can be learned from; metrics.jsonl counts such steps"
    ]
    assert [event.n_passed for event in events if isinstance(event, Finished)] == [4]


def test_answers_stop_at_a_bad_row(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """With on_bad_row = "raise" such a row ends the run, named, before its first step."""
    rows, valid = write_rows(tmp_path, "rows"), write_rows(tmp_path, "valid", missing=(1,))
    recipe = make_recipe(
        checkpoint("qwen3_vl"), rows, tmp_path / "out", data__valid_path=str(valid), eval__answer_rows=2
    )
    named = r"valid\.jsonl train row 1: line 2 of valid\.jsonl: "
    with pytest.raises(SampleError, match=named + r"cannot read the image .*data\.on_bad_row = \"skip\""):
        run(recipe)


def test_no_row_to_answer(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Where none of the rows can be read there is no accuracy, and the run goes on to its end."""
    rows, valid = write_rows(tmp_path, "rows"), write_rows(tmp_path, "valid", missing=(0, 1))
    options = {"data__valid_path": str(valid), "eval__answer_rows": 2, "train__iters": 1}
    events = run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__on_bad_row="skip", **options))

    assert not [event for event in events if isinstance(event, Generated)]
    assert not [event for event in events if isinstance(event, Reported) and "accuracy_after" in event.metrics]
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("options", [{}, {"lora__train_embeddings": True}], ids=["lora", "embeddings"])
def test_tokens_that_the_model_does_not_have(options: dict[str, bool], tmp_path: Path) -> None:
    """A tokenizer with more tokens than the model: a row with one is a bad row, before memory is read or written."""
    model = build_tiny_qwen3_vl(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    n_rows = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken("<loc_1>", special=True, normalized=False)])
    tokenizer.save(str(model / "tokenizer.json"))
    rows = tmp_path / "rows.jsonl"
    lines = [{"question": "Where?", "answer": answer} for answer in ("here", "at <loc_1>", "there")]
    rows.write_text("\n".join(map(json.dumps, lines)))
    keys = {"train__batch_size": 1, "train__epochs": 1, "data__shuffle": False, **options}

    with pytest.raises(
        SampleError, match=rf"row 1: line 2 of rows\.jsonl: token {n_rows} \(<loc_1>\) is beyond .* {n_rows} rows"
    ):
        run(make_recipe(model, rows, tmp_path / "out", **keys))
    events = run(make_recipe(model, rows, tmp_path / "skipped", data__on_bad_row="skip", **keys))
    assert len(losses(events)) == 2
    assert [event for event in events if isinstance(event, Skipped) and "<loc_1>" in event.reason]
