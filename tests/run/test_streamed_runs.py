"""Runs whose rows are streamed: exact resume inside the buffer, epochs, bad rows, changed files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.arrays import load_arrays
from tests.data.streams import write_shards, write_tar
from tests.runs import make_recipe, run, write_image_rows
from vlora import Recipe
from vlora.errors import CheckpointError, SampleError
from vlora.events import EpochEnded, Event, Skipped, Started, StepReport

CheckpointFactory = Callable[[str], Path]


def streamed(model: Path, rows: Path | str, output: Path, **overrides: Any) -> Recipe:
    """Make the recipe of a run that passes seven rows twice and a half."""
    keys = {"data__streaming": True, "data__shuffle_buffer": 4, "train__iters": 10, "train__steps_per_report": 10}
    return make_recipe(model, Path(rows), output, **(keys | overrides))


def reports(events: list[Event]) -> list[StepReport]:
    """List the steps."""
    return [event for event in events if isinstance(event, StepReport)]


@pytest.mark.parametrize(
    ("stop", "batching"),
    [
        *((3, "shuffled"), (2, "grouped"), (4, "packed")),
        *(pytest.param(stop, "shuffled", marks=pytest.mark.slow) for stop in (1, 2, 4, 5, 6, 8)),
        *(pytest.param(stop, "grouped", marks=pytest.mark.slow) for stop in (1, 3, 4, 5, 6, 8)),
        *(pytest.param(stop, "packed", marks=pytest.mark.slow) for stop in (1, 2, 3, 5, 6, 8)),
    ],
)
def test_resume_is_exact_inside_the_buffer(
    checkpoint: CheckpointFactory, tmp_path: Path, stop: int, batching: str
) -> None:
    """A run that was stopped goes on bit for bit: rows that waited, order, dropout, and with threads ahead of it."""
    rows = write_shards(tmp_path / "shards", (3, 0, 4))
    options: dict[str, Any] = {"lora__dropout": 0.2, "data__workers": 2, "data__prefetch": 3}
    options["train__batching"] = batching
    if batching == "packed":
        options |= {"data__max_seq_length": 64, "train__batch_size": 1}
    straight = streamed(checkpoint("llava"), rows, tmp_path / "straight", **options)
    stopped = streamed(checkpoint("llava"), rows, tmp_path / "stopped", **options)
    events = run(straight)
    expected, ended = reports(events), [event for event in events if isinstance(event, EpochEnded)]
    calls = iter([*[False] * (stop - 1), True])
    found = [*reports(run(stopped, should_stop=lambda: next(calls))), *reports(run(stopped, resume=True))]
    weights = [load_arrays(tmp_path / name / "adapters.safetensors") for name in ("straight", "stopped")]

    assert [step.step for step in found] == list(range(1, 11))
    if batching == "packed":
        assert (1, 7) in {(event.epoch, event.n_rows) for event in ended}
    else:
        assert {(event.step, event.epoch, event.n_rows) for event in ended} == {(4, 1, 7), (8, 2, 7)}
    assert [step.loss for step in found] == [step.loss for step in expected]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])


def test_rows_held_out_at_the_beginning_are_not_trained(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """They are validated on, and the others are learned."""
    recipe = streamed(
        checkpoint("llava"),
        rows,
        tmp_path / "run",
        data__split="train[3:]",
        data__valid_split="train[:3]",
        train__iters=3,
    )
    events = run(recipe)
    (started,) = [event for event in events if isinstance(event, Started)]

    assert (started.n_rows, started.n_files, started.n_valid_rows) == (None, 1, 3)
    assert [step.supervised_tokens > 0 for step in reports(events)] == [True] * 3
    assert started.features.reason == "rows of a stream come again after all others"


def test_a_bad_row_is_named_or_left_out(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """By its file and line."""
    rows = write_image_rows(tmp_path)
    with rows.open("a") as file:
        file.write('\n{"question": }\n')
    with pytest.raises(SampleError, match=r"rows\.jsonl row 7: line 8 of rows\.jsonl: "):
        run(streamed(checkpoint("llava"), rows, tmp_path / "raises", train__iters=4))
    events = run(streamed(checkpoint("llava"), rows, tmp_path / "skips", data__on_bad_row="skip", train__iters=4))

    assert any("line 8 of rows.jsonl" in event.reason for event in events if isinstance(event, Skipped))


def test_a_bad_picture_of_an_archive_is_named(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """By its archive and its member."""
    members: list[tuple[str, bytes | str]] = [
        ("a/1.json", '{"question": "q", "answer": "a"}'),
        ("a/1.png", b"\x89PNG\r\n\x1a\nx"),
    ]
    rows = write_tar(tmp_path / "rows.tar", members)
    with pytest.raises(SampleError, match=r"rows\.tar row 0 \(a/1\): cannot read the image"):
        run(streamed(checkpoint("llava"), rows, tmp_path / "run"))


def test_a_changed_file_is_refused(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """By its time, as pictures of rows are; unless the recipe allows it."""
    recipe = streamed(checkpoint("llava"), rows, tmp_path / "run", data__shuffle_buffer=1, train__iters=2)
    run(recipe, should_stop=lambda: True)
    os.utime(rows, ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"rows\.jsonl.*allow_changed_rows"):
        run(recipe, resume=True)
    allowed = streamed(
        checkpoint("llava"),
        rows,
        tmp_path / "run",
        data__shuffle_buffer=1,
        data__allow_changed_rows=True,
        train__iters=2,
    )

    assert reports(run(allowed, resume=True))[-1].step == 2


def test_files_that_are_gone_are_told(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """By the key that names them, and not as rows that have changed, with which the run would not go on either."""
    recipe = streamed(checkpoint("llava"), write_shards(tmp_path / "shards", (3, 4)), tmp_path / "run", train__iters=9)
    asked = iter([False, False, True])
    run(recipe, should_stop=lambda: next(asked))
    (tmp_path / "shards" / "rows-1.tar").unlink()
    with pytest.raises(CheckpointError, match=r"data\.path: its files have other names than then"):
        run(recipe, resume=True)


def test_the_same_files_may_be_named_in_other_words(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path may be written from another folder on when a run goes on."""
    run(streamed(checkpoint("llava"), rows, tmp_path / "run", train__iters=2), should_stop=lambda: True)
    monkeypatch.chdir(rows.parent)
    recipe = streamed(checkpoint("llava"), rows.name, tmp_path / "run", train__iters=2)

    assert reports(run(recipe, resume=True))[-1].step == 2
