"""Rows that `data.max_seq_length` cuts are counted and named wherever they are met; or left out, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import losses, make_recipe, run
from tests.training import picture
from vlora import fit
from vlora.build import load_data
from vlora.cuts import NAMED, CutCounts, measure_cuts
from vlora.data.format.samples import format_sample
from vlora.errors import CheckpointError, LongRowError, SampleError
from vlora.estimate.longest import find_longest_rows
from vlora.events import Event, Finished, Reported, Skipped, Warned
from vlora.models import Encoder, answer_options
from vlora.recipe.schema import DataSection
from vlora.report.inspect import inspect_rows
from vlora.report.rows.choice import Choice, choose_rows
from vlora.types import Cut

CheckpointFactory = Callable[[str], Path]
LIMIT = 40
LONG = (1, 4)
"""The rows of `write_rows` that are longer than LIMIT."""

cuts = st.builds(Cut, source=st.text(), n_tokens=st.integers(3, 999), n_kept=st.just(2), n_lost=st.integers(0, 9))


def write_rows(folder: Path, name: str = "rows.jsonl") -> Path:
    """Write five rows, of which two are long."""
    picture(32, 32).save(folder / "a.png")
    rows = [
        {"image": "a.png", "question": "Well?", "answer": "No. " * (100 if number in LONG else 1) + str(number)}
        for number in range(5)
    ]
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return folder / name


def finished(events: list[Event]) -> Finished:
    """Give a run's last event."""
    assert isinstance(events[-1], Finished)
    return events[-1]


def counted(folder: Path) -> tuple[int, int, str]:
    """Add up what metrics.jsonl has counted, and join what it names."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return (
        sum(line.get("cut_rows", 0) for line in lines),
        sum(line.get("cut_supervised_tokens", 0) for line in lines),
        ", ".join(line["cut_row_names"] for line in lines if line.get("cut_rows")),
    )


@given(st.lists(cuts), st.lists(cuts))
def test_counts_add_up(some: list[Cut], others: list[Cut]) -> None:
    """Counting is one, whether at once or in two parts, and whether it was written down in between."""
    once, first = CutCounts().add([*some, *others]), CutCounts().add(some)

    assert once == first.add(others) == CutCounts.loads(first.dumps()).add(others)
    assert (once.n_rows, once.n_lost) == (len(some + others), sum(cut.n_lost for cut in some + others))
    losing = [cut for cut in some + others if cut.n_lost]
    assert once.first == next((cut.describe() for cut in losing or some + others), "")
    names = [cut.source for cut in some + others][:NAMED]
    assert measure_cuts(once.n_rows, once.n_lost, names)["cut_rows"] == once.n_rows


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"n_rows": "many"}'])
def test_counts_of_another_kind(text: str) -> None:
    """What a training state says of cuts is understood, or refused."""
    with pytest.raises(CheckpointError, match="rows that were cut"):
        CutCounts.loads(text)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "mllama", "gemma3", "smolvlm"])
def test_an_example_says_what_was_cut(family: str, encoder: Callable[..., Encoder]) -> None:
    """A shortened row carries the lengths before and after, and how much of what was to be learned is gone."""
    sample = format_sample({"image": picture(32, 32), "question": "Well?", "answer": "No. " * 99}, "a row")
    whole = encoder(family, train_on_completions=True)(sample)
    limit = len(whole.tokens) - 7
    found = encoder(family, train_on_completions=True, max_seq_length=limit)(sample)

    assert whole.cut is None
    assert found.cut is not None
    assert found.cut == Cut(
        source="a row",
        n_tokens=len(whole.tokens),
        n_kept=len(found.tokens),
        n_lost=int(whole.supervised.sum() - found.supervised.sum()),
    )
    assert np.array_equal(found.tokens, whole.tokens[:limit])
    for choice in ("skip", "raise"):
        with pytest.raises(LongRowError, match=rf"^a row: {len(whole.tokens)} tokens exceed"):
            encoder(family, max_seq_length=limit, on_long_row=choice)(sample)


@pytest.mark.parametrize(
    ("batching", "workers"),
    [
        ("shuffled", 0),
        pytest.param("grouped", 2, marks=pytest.mark.slow),
        pytest.param("packed", 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_counts_what_it_cuts(batching: str, workers: int, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Start, metrics and end agree; a run that goes on counts as if it had never stopped."""
    options = {
        "data__max_seq_length": LIMIT,
        "data__workers": workers,
        "train__epochs": 3,
        "train__batching": batching,
        "train__batch_size": 1,
    }
    rows = write_rows(tmp_path)
    whole = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "whole", **options)
    events = run(whole)
    found = finished(events).cuts
    n_rows, n_lost, names = counted(tmp_path / "whole")

    assert (found.n_rows, found.n_losing) == (3 * len(LONG), 3 * len(LONG))
    assert (n_rows, n_lost) == (found.n_rows, found.n_lost)
    assert all(names.count(f"rows.jsonl train row {number}") == 3 for number in LONG)
    notes = [event.message for event in events if isinstance(event, Warned)]
    assert len([note for note in notes if "by data.max_seq_length; 1 lost supervised tokens" in note]) == 1

    parts = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "parts", **options)
    stops = iter([False] * 3)
    run(parts, should_stop=lambda: next(stops, True))
    resumed = finished(run(parts, resume=True)).cuts

    assert attrs.evolve(resumed, first="") == attrs.evolve(found, first="")
    assert counted(tmp_path / "parts")[:2] == (found.n_rows, found.n_lost)


def test_long_rows_may_be_left_out(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """With "skip" a long row is passed over, told and counted, whatever happens to bad ones."""
    options = {"data__max_seq_length": LIMIT, "train__epochs": 1, "train__batch_size": 1, "data__shuffle": False}
    rows = write_rows(tmp_path)
    events = run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options, data__on_long_row="skip"))

    assert len(losses(events)) == 5 - len(LONG)
    assert [event.reason.partition(":")[0] for event in events if isinstance(event, Skipped)] == [
        f"rows.jsonl train row {number}" for number in LONG
    ]
    assert finished(events).n_skipped == len(LONG)
    assert finished(events).cuts == CutCounts()


def test_long_rows_may_end_a_run(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """With "raise" one ends the run, although bad rows are skipped; it goes on when such rows may be cut."""
    options: dict[str, Any] = {"data__max_seq_length": LIMIT, "train__epochs": 1, "train__batch_size": 1}
    options |= {"data__shuffle": False, "data__on_bad_row": "skip"}
    recipe = make_recipe(
        checkpoint("qwen3_vl"), write_rows(tmp_path), tmp_path / "out", **options, data__on_long_row="raise"
    )
    with pytest.raises(LongRowError, match=r"row 1: .* data\.on_long_row = \"skip\" .* --resume goes on from there"):
        list(fit(recipe))
    events = run(attrs.evolve(recipe, data=attrs.evolve(recipe.data, on_long_row="cut")), resume=True)

    assert finished(events).cuts.n_rows == len(LONG)
    assert len(losses(events)) == 4


def test_validation_tells_its_cuts_once(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The rows to validate on are the same every time, and so are those of them that are cut."""
    valid = write_rows(tmp_path, "valid.jsonl")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Well?", "answer": "No."}))
    options = {"data__max_seq_length": LIMIT, "data__valid_path": str(valid), "train__iters": 3}
    events = run(make_recipe(checkpoint("qwen3_vl"), tmp_path / "rows.jsonl", tmp_path / "out", **options))
    notes = [event.message for event in events if isinstance(event, Warned)]

    assert len([event for event in events if isinstance(event, Reported) and "valid_loss" in event.metrics]) > 1
    assert len([note for note in notes if note.startswith("validation: 2 rows were cut by data.max_seq_length")]) == 1
    assert finished(events).cuts == CutCounts()


def test_inspecting_and_planning_tell_them(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Whoever looks before the run hears of them."""
    recipe = make_recipe(checkpoint("qwen3_vl"), write_rows(tmp_path), tmp_path / "out", data__max_seq_length=LIMIT)
    data = load_data(recipe)
    inspected = inspect_rows(data, choose_rows(Choice(n=5), [data.train]))
    found = {number: row.cut for number, row in enumerate(inspected) if row.cut is not None}

    assert tuple(found) == LONG
    assert all(cut.n_kept == LIMIT and cut.n_lost == cut.n_tokens - LIMIT - 1 for cut in found.values())
    source = find_longest_rows(recipe, answer_options(recipe, 0)).train_source
    assert "of those 2 rows were cut by data.max_seq_length" in source


def test_images_are_not_cut(encoder: Callable[..., Encoder]) -> None:
    """A row whose image lies beyond is a bad row, which no choice for long rows changes."""
    sample = format_sample({"image": picture(64, 64), "question": "Well?", "answer": "No."}, "a row")
    with pytest.raises(SampleError, match="image tokens would be cut") as caught:
        encoder("qwen2_vl", max_seq_length=8)(sample)

    assert not isinstance(caught.value, LongRowError)
    assert DataSection(path="x").on_long_row == "cut"
