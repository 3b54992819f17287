"""What a run knows of itself: when it is over, which of its states is the best, what it has counted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vlora import parse_recipe
from vlora.cuts import CutCounts
from vlora.data.rows import RowDataset
from vlora.errors import SampleError
from vlora.output.checkpoint import RunMetadata
from vlora.run.choice import Choice
from vlora.run.context import RunContext
from vlora.types import Cut, Sample


def make_run(**recipe: Any) -> RunContext:
    """Make a run of ten steps of which only the recipe, the batches and the paths are there."""
    keys = {"model.path": "m", "data.path": "d", "data.valid_path": "v", "output.path": "o", **recipe}
    rest = ("found", "rules", "learned", "data", "backbone", "config", "features", "loader", "answer_metrics")
    absent: dict[str, Any] = dict.fromkeys(rest)
    run = RunContext(recipe=parse_recipe("", keys), paths=cast("Any", SimpleNamespace(best=Path("best"))), **absent)
    run.source = cast("Any", SimpleNamespace(n_steps=lambda _: 10))
    return run


def test_a_run_is_over_with_its_last_step_or_when_nothing_gets_better() -> None:
    """Early only if the recipe has a patience, and never once all steps are done."""
    run = make_run(**{"train.early_stopping_patience": 2})
    assert (run.n_steps, run.is_over) == (10, False)
    run.done = 4
    for step, value in ((2, 1.0), (3, 2.0), (4, 2.0)):
        run.judge({"step": step, run.choice.judged_by: value})
    assert run.is_early
    assert run.is_over
    run.done = 10
    assert not run.is_early
    assert run.is_over
    assert not make_run().is_over


def test_only_what_is_judged_by_counts() -> None:
    """A line without that value changes nothing; the best state says where it is kept, if it is."""
    run = make_run()
    run.judge({"step": 1, "loss": 0.5})
    assert run.choice == Choice()
    assert run.best is None
    run.judge({"step": 1, run.choice.judged_by: 0.5})
    assert run.best is not None
    assert run.best.path is None
    kept = make_run(**{"output.keep_best": "valid_loss"})
    kept.judge({"step": 1, kept.choice.judged_by: 0.5})
    assert kept.best is not None
    assert kept.best.path == Path("best")


def test_a_run_that_begins_has_no_metadata() -> None:
    """It goes on from nothing."""
    assert make_run().metadata == RunMetadata()


@pytest.mark.parametrize("told_before", [False, True])
def test_the_first_cut_is_told_where_it_is_met(told_before: bool) -> None:
    """Unless rows that were read before the first step were cut, of which it was told then; later ones are counted."""
    cut = Cut(source="row 1", n_tokens=10, n_kept=8, n_lost=1)
    run = make_run()
    run.loader = cast("Any", SimpleNamespace(first_cuts=(cut,) if told_before else ()))
    told = [len(list(run._count_cuts(cuts))) for cuts in ((), (cut,), (cut,))]

    assert told == ([0, 0, 0] if told_before else [0, 1, 0])
    assert run.cuts == CutCounts().add([cut, cut])
    assert len(list(run.first_cuts())) == told_before


@pytest.mark.parametrize(
    ("n_ranks", "is_divided", "expected"), [(1, False, "0 1 3"), (2, False, "1 3"), (2, True, "0 1 3")]
)
def test_a_device_tries_its_own_rows(n_ranks: int, is_divided: bool, expected: str) -> None:
    """Those of which it keeps features; devices that run the same batches try the same rows. Bad ones are left out."""

    def encode(sample: Sample) -> tuple[str, ...]:
        if sample.turns[-1].text == "2":
            msg = "row 2: bad"
            raise SampleError(msg)
        return (sample.turns[-1].text,)

    run = make_run(**{"data.on_bad_row": "skip"})
    table: list[dict[str, Any]] = [{"question": "a", "answer": str(number)} for number in range(5)]
    run.data = cast("Any", SimpleNamespace(train=RowDataset(name="rows", table=table, indices=range(5))))
    run.loader = cast("Any", SimpleNamespace(encode=encode))
    run.backbone = cast("Any", SimpleNamespace(shards=object() if is_divided else None))
    run.ranks = cast("Any", SimpleNamespace(rank=n_ranks - 1, size=n_ranks))

    assert " ".join(example for (example,) in cast("Any", run.first_examples(4))) == expected


def test_features_of_others_are_taken_once_behind_the_first_epoch() -> None:
    """What this device has computed is written first, and all others have written then."""
    done: list[str] = []
    run = make_run()
    run.source = cast("Any", SimpleNamespace(n_epochs=lambda step: step // 3))
    run.ranks = cast("Any", SimpleNamespace(wait=lambda: done.append("wait")))
    steps = {"flush": lambda: done.append("flush"), "take_others": lambda: done.append("take")}
    run.features = cast("Any", SimpleNamespace(is_divided=True, **steps))

    assert [run.shares_features(step) for step in range(5)] == [False, False, False, True, True]
    run.exchange_features()
    assert run.shares_features(6)
    run.share_features()
    assert done == ["flush", "wait", "take"] * 2
    assert not run.shares_features(6)
    other = make_run()
    other.source, other.features = run.source, cast("Any", SimpleNamespace(is_divided=False))
    assert not other.shares_features(3)
