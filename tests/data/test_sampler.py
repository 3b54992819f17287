"""Orders of rows: every row once an epoch, another order for another epoch or seed, and steps that end with epochs."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vlora import bucket_length, epoch_batches
from vlora.data.epoch_order import plain_order
from vlora.data.sampler import (
    WINDOW_BATCHES,
    length_grouped_batches,
    sort_batches,
    sort_windows,
    step_batches,
    steps_per_epoch,
)

small = st.integers(1, 40)


seeds = st.integers(0, 2**32)


@given(st.integers(0, 200), small, seeds, st.integers(0, 5), st.booleans())
def test_plan_covers_each_row_once(n_rows: int, batch_size: int, seed: int, epoch: int, shuffle: bool) -> None:
    """Every row is in exactly one batch, and only the last batch is short."""
    plan = epoch_batches(n_rows, batch_size, seed=seed, epoch=epoch, shuffle=shuffle)

    assert sorted(number for batch in plan for number in batch) == list(range(n_rows))
    assert all(len(batch) == batch_size for batch in plan[:-1])
    assert all(0 < len(batch) <= batch_size for batch in plan)
    assert plan == epoch_batches(n_rows, batch_size, seed=seed, epoch=epoch, shuffle=shuffle)


@given(seeds, st.integers(0, 100))
def test_plan_differs_between_epochs_and_seeds(seed: int, epoch: int) -> None:
    """Another epoch and another seed have another order; without shuffling the order is the rows' own."""

    def plan(seed: int, epoch: int, *, shuffle: bool = True) -> list[list[int]]:
        return epoch_batches(100, 8, seed=seed, epoch=epoch, shuffle=shuffle)

    assert plan(seed, epoch) != plan(seed, epoch + 1)
    assert plan(seed, epoch) != plan(seed + 1, epoch)
    assert [row for batch in plan(seed, epoch, shuffle=False) for row in batch] == list(range(100))


@given(small, st.integers(1, 5), st.integers(1, 4), seeds, st.booleans(), st.integers(0, 30), st.integers(0, 30))
def test_plan_steps(
    n_rows: int, batch_size: int, accumulation: int, seed: int, shuffle: bool, n_steps: int, first_step: int
) -> None:
    """Each epoch's steps cover each row once, and a run that begins later takes the very same steps."""
    settings: dict[str, Any] = {"accumulation": accumulation, "seed": seed, "shuffle": shuffle, "n_steps": n_steps}
    steps = list(step_batches(n_rows, batch_size, **settings))
    per_epoch = steps_per_epoch(n_rows, batch_size, accumulation)

    assert len(steps) == n_steps
    assert all(1 <= len(step) <= accumulation for step in steps)
    for start in range(0, n_steps - per_epoch + 1, per_epoch):
        epoch = steps[start : start + per_epoch]
        assert sorted(row for step in epoch for batch in step for row in batch) == list(range(n_rows))
    assert list(step_batches(n_rows, batch_size, **settings, first_step=first_step)) == steps[first_step:]


seeds = st.integers(0, 2**32)


rows_of = st.integers(0, 400)


def by_number(numbers: Sequence[int]) -> Iterator[int]:
    """Give every row a length that its number fixes."""
    return (number * 7919 % 997 + 1 for number in numbers)


@given(rows_of, st.integers(1, 4), seeds, st.integers(0, 5))
def test_groups_cover_each_row_once(n_rows: int, batch_size: int, seed: int, epoch: int) -> None:
    """As many batches as shuffled ones, one of them short; the same again for the same seed and epoch."""
    settings: dict[str, Any] = {"seed": seed, "epoch": epoch, "measure": by_number}
    plan = list(length_grouped_batches(n_rows, batch_size, **settings))
    shuffled = epoch_batches(n_rows, batch_size, seed=seed, epoch=epoch, shuffle=True)

    assert sorted(row for batch in plan for row in batch) == list(range(n_rows))
    assert sorted(map(len, plan)) == sorted(map(len, shuffled))
    assert plan == list(length_grouped_batches(n_rows, batch_size, **settings))


@given(st.integers(1, 400), st.integers(1, 4), seeds, st.integers(0, 400))
def test_groups_go_on_anywhere(n_rows: int, batch_size: int, seed: int, first: int) -> None:
    """A plan that begins later is the same from there, and asks for no length before its window."""
    asked: list[int] = []

    def measure(numbers: Sequence[int]) -> Iterator[int]:
        for number in numbers:
            asked.append(number)
            yield from by_number([number])

    settings: dict[str, Any] = {"seed": seed, "epoch": 3}
    whole = list(length_grouped_batches(n_rows, batch_size, measure=by_number, **settings))
    rest = list(length_grouped_batches(n_rows, batch_size, measure=measure, first_batch=first, **settings))

    assert rest == whole[first:]
    assert len(asked) == max(0, n_rows - first // WINDOW_BATCHES * WINDOW_BATCHES * batch_size)


@given(seeds)
def test_only_a_window_is_measured_before_the_first_step(seed: int) -> None:
    """However many rows there are; the next window's lengths are asked for batch by batch."""
    n_asked = 0

    def measure(numbers: Sequence[int]) -> Iterator[int]:
        nonlocal n_asked
        for number in numbers:
            n_asked += 1
            yield number

    batches = length_grouped_batches(10_000, 4, seed=seed, epoch=0, measure=measure)
    next(batches)
    assert n_asked == 4 * WINDOW_BATCHES
    for _ in itertools.islice(batches, WINDOW_BATCHES - 1):
        pass
    assert n_asked == 4 * (2 * WINDOW_BATCHES - 1)


@given(seeds)
def test_groups_are_fresh_and_of_like_length(seed: int) -> None:
    """Rows meet others in every epoch; padding is a fraction of what it is for shuffled rows."""
    lengths = dict(enumerate(by_number(range(1000))))

    def padding(plan: Sequence[Sequence[int]]) -> float:
        places = sum(8 * bucket_length(max(lengths[row] for row in batch)) for batch in plan)
        return 1 - sum(lengths.values()) / places

    epochs = [
        list(
            length_grouped_batches(1000, 8, seed=seed, epoch=epoch, measure=lambda rows: (lengths[row] for row in rows))
        )
        for epoch in range(2)
    ]
    companies = [{frozenset(batch) for batch in epoch} for epoch in epochs]

    assert len(companies[0] & companies[1]) < 10
    assert padding(epochs[0]) < padding(epoch_batches(1000, 8, seed=seed, epoch=0, shuffle=True)) / 2
    # Shuffled: not from the longest to the shortest.
    longest = [max(lengths[row] for row in batch) for batch in epochs[0][:WINDOW_BATCHES]]
    assert longest != sorted(longest, reverse=True)


@given(st.integers(1, 300), st.integers(1, 3), st.integers(1, 4), seeds, st.integers(0, 60), st.integers(0, 60))
def test_grouped_steps(n_rows: int, batch_size: int, accumulation: int, seed: int, n_steps: int, first: int) -> None:
    """Each epoch's steps cover each row once, and a run that begins later takes the very same steps."""
    settings: dict[str, Any] = {"accumulation": accumulation, "seed": seed, "shuffle": True, "n_steps": n_steps}
    steps = list(step_batches(n_rows, batch_size, **settings, measure=by_number))
    per_epoch = steps_per_epoch(n_rows, batch_size, accumulation)

    assert len(steps) == n_steps
    for start in range(0, n_steps - per_epoch + 1, per_epoch):
        epoch = steps[start : start + per_epoch]
        assert sorted(row for step in epoch for batch in step for row in batch) == list(range(n_rows))
    assert list(step_batches(n_rows, batch_size, **settings, measure=by_number, first_step=first)) == steps[first:]


@given(st.integers(0, 60), small, seeds)
def test_sorted_batches_have_the_same_rows(n_rows: int, batch_size: int, seed: int) -> None:
    """Their rows rise from the first batch to the last, and each batch is as long as before."""
    plan = epoch_batches(n_rows, batch_size, seed=seed, epoch=0, shuffle=True)[:3]
    found = sort_batches(plan)

    assert list(itertools.chain(*found)) == sorted(itertools.chain(*plan))
    assert list(map(len, found)) == list(map(len, plan))


@given(n_rows=small, size=small, seed=seeds)
def test_sorted_windows_have_the_rows_that_were_drawn(n_rows: int, size: int, seed: int) -> None:
    """So that any number of whole windows stands for all rows."""
    order = plain_order(n_rows, seed=seed, shuffle=True)
    drawn, found = order(0).tolist(), sort_windows(order, size)(0).tolist()

    for start in range(0, n_rows, size):
        assert found[start : start + size] == sorted(drawn[start : start + size])
