"""Orders of rows that (seed, epoch) fixes: batches of an epoch, rows of like length together, steps of a run. Pure."""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsIndex, TypeVar

import numpy as np

from ..arguments import expect_at_least
from .epoch_order import EpochOrder, Indices, plain_order

WINDOW_BATCHES = 50
"""Batches whose rows are grouped by length together. More of them leave less padding (16 rows a batch, lengths spread
by a factor of 2 around their median: 61 % shuffled, 16 % with 16, 8 % with 50, 6 % with 100), and their lengths have to
be known before the first step."""

PlannedRow = TypeVar("PlannedRow", bound=SupportsIndex)
"""A row's number, or what has it beside other things."""

LengthFn = Callable[[Sequence[int]], Iterator[int]]
"""Row indices to their lengths in tokens, in order, drawn as they are needed. Estimates will do."""


def epoch_batches(
    n_rows: int, batch_size: int, *, seed: int, epoch: int, shuffle: bool, order: EpochOrder | None = None
) -> list[list[int]]:
    """Divide one epoch's rows into batches: every row once, the last batch short if need be.

    Args:
        n_rows: Rows of the data set.
        batch_size: Rows of a batch.
        seed: The run's seed.
        epoch: Counts from 0; with the seed it fixes the order.
        shuffle: Draw an order; otherwise the rows' own.
        order: Gives the order instead, as that of a mixture with weights does (`vlora.data.mixture`).

    Returns:
        Row indices, batch by batch.
    """
    expect_at_least(batch_size, 1, "epoch_batches, batch_size")
    order = order or plain_order(n_rows, seed=seed, shuffle=shuffle)
    return list(_cut_batches(order(epoch), batch_size))


def sort_batches(batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """Put the rows of batches in the order of their numbers; the batches stay as long as they are."""
    rows = iter(sorted(itertools.chain.from_iterable(batches)))
    return [list(itertools.islice(rows, len(batch))) for batch in batches]


def sort_windows(order: EpochOrder, size: int) -> EpochOrder:
    """Put so many rows of an order after one another in the order of their numbers, and so on."""

    def sort(epoch: int) -> Indices:
        rows = order(epoch)
        return np.concatenate([np.sort(rows[start : start + size]) for start in range(0, len(rows), size)])

    return sort


def _cut_batches(order: Indices, batch_size: int, first_batch: int = 0) -> Iterator[list[int]]:
    for start in range(first_batch * batch_size, len(order), batch_size):
        yield order[start : start + batch_size].tolist()


def length_grouped_batches(
    n_rows: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    measure: LengthFn,
    first_batch: int = 0,
    order: EpochOrder | None = None,
) -> Iterator[list[int]]:
    """Divide one epoch's rows into batches of like length: every row once, as many batches as `epoch_batches`.

    The epoch's own order is cut into windows; the rows of one are sorted by length, cut into batches, and the batches
    shuffled. So rows meet others in every epoch, and no length has to be known but those of a window.

    Args:
        n_rows: Rows of the data set.
        batch_size: Rows of a batch.
        seed: The run's seed.
        epoch: Counts from 0; with the seed it fixes the order.
        measure: Says how long rows are; those of the next window while this one's batches are drawn.
        first_batch: Batches to leave out; only the lengths of their own window are asked for.
        order: As for `epoch_batches`.

    Yields:
        Row indices, batch by batch.
    """
    own: list[int] = (order or plain_order(n_rows, seed=seed, shuffle=True))(epoch).tolist()
    size = WINDOW_BATCHES * batch_size
    window, skipped = divmod(first_batch, WINDOW_BATCHES)
    start = window * size
    lengths = measure(own[start:])
    known = list(itertools.islice(lengths, size))
    while known:
        ahead: list[int] = []
        rows = own[start : start + len(known)]
        for batch in group_by_length(rows, known, batch_size, (seed, epoch, start))[skipped:]:
            yield batch
            ahead.extend(itertools.islice(lengths, batch_size))
        start, skipped = start + len(known), 0
        known = [*ahead, *itertools.islice(lengths, size - len(ahead))]


def group_by_length(
    rows: Sequence[int], lengths: Sequence[int], batch_size: int, seed: tuple[int, ...]
) -> list[list[int]]:
    """Divide rows into batches of like length, and shuffle the batches."""
    ordered = [row for _, row in sorted(zip(lengths, rows, strict=True), reverse=True)]
    batches = [ordered[place : place + batch_size] for place in range(0, len(ordered), batch_size)]
    return [batches[place] for place in np.random.default_rng(seed).permutation(len(batches)).tolist()]


def step_batches(
    n_rows: int,
    batch_size: int,
    *,
    accumulation: int,
    seed: int,
    shuffle: bool,
    n_steps: int,
    first_step: int = 0,
    measure: LengthFn | None = None,
    order: EpochOrder | None = None,
) -> Iterator[list[list[int]]]:
    """Yield each step's microbatches, epoch after epoch, as long as there are steps.

    The microbatches left at the end of an epoch make a shorter step; none crosses epochs.

    Args:
        n_rows: Rows of the data set, at least 1.
        batch_size: Rows of a microbatch.
        accumulation: Microbatches of a step.
        seed: The run's seed.
        shuffle: Draw a new order every epoch.
        n_steps: Steps of the whole run.
        first_step: Steps done before; they are passed over without reading a row.
        measure: Groups rows of like length if given; they are then shuffled always.
        order: As for `epoch_batches`.

    Yields:
        Row indices: microbatches of rows.
    """
    per_epoch = steps_per_epoch(n_rows, batch_size, accumulation)
    order = order or plain_order(n_rows, seed=seed, shuffle=shuffle or measure is not None)
    for step in range(first_step, n_steps):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == first_step:
            first = position * accumulation
            if measure is None:
                batches = _cut_batches(order(epoch), batch_size, first)
            else:
                batches = length_grouped_batches(
                    n_rows, batch_size, seed=seed, epoch=epoch, measure=measure, first_batch=first, order=order
                )
        yield list(itertools.islice(batches, accumulation))


def share_steps(
    steps: Iterable[Sequence[Sequence[PlannedRow]]], rank: int, n_ranks: int, batch_size: int, *, is_even: bool = False
) -> Iterator[list[list[PlannedRow]]]:
    """Yield one rank's rows of each step; of all ranks together they are those of the step, each once.

    A row goes to the same rank in every epoch wherever shares stay even, so that the rank that keeps the features of
    its images needs no other's. Behind the last rows of an epoch a rank may have none.

    Args:
        steps: Row indices: microbatches of each step.
        rank: Whose rows; from 0.
        n_ranks: Ranks among which the rows are shared out.
        batch_size: Rows of one of its microbatches at most; where it has more, they are divided.
        is_even: Whether all ranks have as many microbatches, some of them empty.

    Yields:
        Row indices: microbatches of rows, none of them empty unless `is_even`.
    """
    for batches in steps:
        shares = [share_out(batch, n_ranks) for batch in batches]
        sizes = [max(map(len, each)) if is_even else len(each[rank]) for each in shares]
        yield [
            each[rank][start : start + batch_size]
            for each, size in zip(shares, sizes, strict=True)
            for start in range(0, size, batch_size)
        ]


def share_out(rows: Sequence[PlannedRow], n_ranks: int) -> list[list[PlannedRow]]:
    """Divide rows evenly among ranks: each to the one that its number names, as long as that has room."""
    room = [len(rows[rank::n_ranks]) for rank in range(n_ranks)]
    chosen: dict[int, int] = {}
    for place, row in enumerate(rows):
        rank = operator.index(row) % n_ranks
        if room[rank]:
            chosen[place] = rank
            room[rank] -= 1
    for place in range(len(rows)):
        if place not in chosen:
            chosen[place] = next(rank for rank in range(n_ranks) if room[rank])
            room[chosen[place]] -= 1
    return [[row for place, row in enumerate(rows) if chosen[place] == rank] for rank in range(n_ranks)]


def steps_per_epoch(n_rows: int, batch_size: int, accumulation: int) -> int:
    """Count the steps that pass over all rows once."""
    return -(-n_rows // (batch_size * accumulation))
