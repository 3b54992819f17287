"""Packing: every row once per epoch, no pack too long, nothing of one row's targets at another's places."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import examples
from vlora import Batch, Example, bucket_length
from vlora.data.collate import collate_packed
from vlora.data.packing import PackedSteps, Progress, first_fit_decreasing
from vlora.errors import BatchError, CheckpointError
from vlora.types import positions_of

lengths = st.lists(st.integers(1, 40), max_size=60)
packs_of_examples = st.lists(st.lists(examples(max_tokens=30), min_size=1, max_size=3), min_size=1, max_size=3)


@given(lengths, st.integers(1, 60))
def test_packs_divide_the_rows(lengths: list[int], capacity: int) -> None:
    """Every row is in one pack; no pack of several is too long, and no two could have been one; fullest first."""
    packs = first_fit_decreasing(lengths, capacity)
    used = [sum(lengths[row] for row in pack) for pack in packs]

    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(total <= capacity or len(pack) == 1 for pack, total in zip(packs, used, strict=True))
    assert all(first + second > capacity for first, second in itertools.combinations(used, 2))
    assert used == sorted(used, reverse=True)
    assert all(pack == sorted(pack) for pack in packs)


@given(packs_of_examples, st.integers(0, 2), st.integers(0, 5))
def test_collate_packs(packs: list[list[Example]], n_fillers: int, pad_id: int) -> None:
    """Examples stand in line without their last tokens, each in a segment of its own; the rest is padding."""
    batch = collate_packed(packs, len(packs) + n_fillers, pad_id)
    tokens, segments, valid = np.array(batch.tokens), np.array(batch.segment_ids), np.array(batch.valid)
    longest = max(sum(positions_of(example) for example in pack) for pack in packs)

    assert tokens.shape == segments.shape == (len(packs) + n_fillers, bucket_length(longest))
    assert batch.rows == tuple(example for pack in packs for example in pack)
    assert (valid == (segments > 0)).all()
    spans = iter(batch.spans)
    for row, pack in enumerate(packs):
        read = 0
        for number, example in enumerate(pack, start=1):
            assert next(spans) == (row, read, positions_of(example))
            assert tokens[row, read : read + positions_of(example)].tolist() == (
                example.tokens[: positions_of(example)].tolist()
            )
            assert (segments[row, read : read + positions_of(example)] == number).all()
            read += positions_of(example)
        assert not segments[row, read:].any()
    assert not segments[len(packs) :].any()


@given(packs_of_examples)
def test_targets_of_packs(packs: list[list[Example]]) -> None:
    """A supervised token is the target of the place before it, which is its own example's."""
    batch = collate_packed(packs)
    positions, targets, weights = (np.array(array) for array in batch.targets[:3])
    length = batch.tokens.shape[1]
    expected = [
        (row * length + start + place - 1, example.tokens[place])
        for example, (row, start, _) in zip(batch.rows, batch.spans, strict=True)
        for place in np.flatnonzero(example.supervised)
    ]

    assert list(zip(positions[weights > 0], targets[weights > 0], strict=True)) == expected
    for example, (row, start, count) in zip(batch.rows, batch.spans, strict=True):
        own = range(row * length + start, row * length + start + count)
        assert all(place in own for place, _ in expected if place in own)
        assert sum(place in own for place, _ in expected) == example.supervised.sum()


def test_first_tokens_of_packs_are_no_targets() -> None:
    """What precedes an example's first token is another's, so it is not supervised even if an example says so."""
    everything = np.ones(3, dtype=np.bool_)
    example = Example(source="row", tokens=np.array([7, 8, 9]), supervised=everything, placeholders=~everything)
    batch = collate_packed([[example, example]])
    weights = np.array(batch.targets.weights)

    assert np.array(batch.targets.positions)[weights > 0].tolist() == [0, 1, 2, 3]
    assert np.array(batch.targets.ids)[weights > 0].tolist() == [8, 9, 8, 9]
    assert np.array(batch.tokens)[0, :4].tolist() == [7, 8, 7, 8]


@pytest.mark.parametrize("packs", [[], [[]], [[], []]])
def test_nothing_to_pack(packs: list[list[Example]]) -> None:
    """A batch of no examples is refused."""
    with pytest.raises(BatchError):
        collate_packed(packs)


@attrs.frozen(eq=False, kw_only=True)
class Run:
    """A data set of rows known by their lengths; None for one that cannot be learned from."""

    lengths: Sequence[int | None]
    settings: dict[str, Any]

    def steps(self, first_step: int = 0, start: Progress | None = None) -> tuple[PackedSteps, Iterator[list[Batch]]]:
        """Begin it, or go on."""
        packed = PackedSteps(
            n_rows=len(self.lengths), **self.settings, first_step=first_step, start=start or Progress()
        )
        return packed, packed.steps(map(self.read, packed.indices()))

    def read(self, number: int) -> tuple[Example] | None:
        """Encode a row."""
        length = self.lengths[number]
        if length is None:
            return None
        marks = np.zeros(length, dtype=np.bool_)
        tokens = np.full(length, number, dtype=np.int32)
        return (Example(source=str(number), tokens=tokens, supervised=marks, placeholders=marks),)


def numbers_of(step: list[Batch]) -> list[list[int]]:
    """Name a step's rows, microbatch by microbatch."""
    return [[int(example.source) for example in batch.rows] for batch in step]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Draw data sets and settings."""
    settings = {
        "capacity": draw(st.integers(8, 64)),
        "batch_size": draw(st.integers(1, 3)),
        "accumulation": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 2**32)),
        "shuffle": draw(st.booleans()),
        "n_epochs": draw(st.integers(1, 3)),
    }
    lengths = draw(st.lists(st.none() | st.integers(1, 30), min_size=1, max_size=25))
    return Run(lengths=lengths, settings=settings)


@given(runs())
def test_every_row_once_per_epoch(run: Run) -> None:
    """Each epoch learns every good row once, in steps of its own; no pack of several is too long."""
    packed, steps = run.steps()
    taken = list(steps)
    good = [number for number, length in enumerate(run.lengths) if length is not None]
    epoch: list[int] = []
    for number, step in enumerate(taken, start=1):
        assert len(step) <= run.settings["accumulation"]
        epoch += [row for rows in numbers_of(step) for row in rows]
        for batch in step:
            assert batch.tokens.shape[0] == run.settings["batch_size"]
            ends = [start + count for _, start, count in batch.spans if start]
            assert max(ends, default=0) <= run.settings["capacity"]
        if packed.progress_at(number) == Progress(epoch=packed.progress_at(number).epoch):
            assert sorted(epoch) == good
            epoch = []

    assert not epoch
    assert packed.progress_at(len(taken)) == Progress(epoch=run.settings["n_epochs"])
    assert packed.count_at(len(taken)) == len(taken)
    assert all(packed.count_at(step) > step for step in range(1, len(taken)))


@given(runs(), st.data())
def test_packed_run_goes_on_exactly(run: Run, data: st.DataObject) -> None:
    """From behind any step a run takes the very same steps, and expects as many."""
    packed, steps = run.steps()
    taken = [numbers_of(step) for step in steps]
    stop = data.draw(st.integers(0, len(taken)))
    start = Progress.loads(packed.progress_at(stop).dumps()) if stop else None
    again, rest = run.steps(stop, start)

    assert [numbers_of(step) for step in rest] == taken[stop:]
    assert again.count_at(len(taken)) == len(taken)
    assert all(again.count_at(step) == packed.count_at(step) for step in range(max(1, stop), len(taken)))


@given(runs(), st.integers(0, 12))
def test_steps_end_a_run(run: Run, n_steps: int) -> None:
    """A run of so many steps passes over the rows as often as it takes, each time in another order."""
    run = attrs.evolve(run, settings={**run.settings, "n_epochs": None, "n_steps": n_steps})
    packed, steps = run.steps()

    assert len(list(steps)) == n_steps
    assert packed.count_at(0) == n_steps


def test_orders_differ_between_epochs() -> None:
    """An epoch's packs are not those of the one before."""
    run = Run(
        lengths=[10] * 40,
        settings={"capacity": 36, "batch_size": 1, "accumulation": 1, "seed": 0, "shuffle": True, "n_epochs": 2},
    )
    taken = [numbers_of(step)[0] for step in run.steps()[1]]

    assert taken[:10] != taken[10:]


def test_packs_are_full_and_little_is_read_ahead() -> None:
    """Of rows of mixed lengths hardly a place is wasted, and few rows are read before the first step."""
    generator = np.random.default_rng(0)
    drawn = np.minimum(generator.lognormal(5.5, 0.7, 2000).astype(int) + 2, 2048).tolist()
    run = Run(
        lengths=drawn,
        settings={"capacity": 2048, "batch_size": 4, "accumulation": 1, "seed": 0, "shuffle": True, "n_epochs": 1},
    )
    packed, steps = run.steps()
    taken = [next(steps)]
    prime = packed.progress_at(1).n_read
    taken += steps
    filled = [float(mx.mean(batch.valid)) for step in taken[:-2] for batch in step]

    assert np.mean(filled) > 0.97
    assert prime < 150


def test_progress_that_is_none() -> None:
    """A training state that says something else is refused."""
    with pytest.raises(CheckpointError, match="not understood"):
        Progress.loads('{"epoch": 1}')
