"""From examples to batches of few shapes, in an order that (seed, epoch) fixes. Pure."""

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from .errors import BatchError
from .types import Batch, BoolArray, Example, IntArray

SMALLEST_BUCKET = 32
"""Tokens. Shorter rows are padded to it: a trace costs more than what would be saved."""

BUCKETS_PER_OCTAVE = 8
"""Between a length and its double there are at most so many buckets, so at most 12.5 % is padding."""


def bucket_length(n_tokens: int) -> int:
    """Round a length up to one of few, so that a run traces few shapes.

    Args:
        n_tokens: At least 1.

    Returns:
        A multiple of 32, at most 12.5 % above `n_tokens` from 256 tokens on; lengths up to L fall into
        8 log2(L / 256) + 8 buckets.
    """
    octave = 2 ** max(0, (n_tokens - 1).bit_length() - 1)
    width = max(SMALLEST_BUCKET, octave // BUCKETS_PER_OCTAVE)
    return int(-(-n_tokens // width) * width)


SELECTED_SIXTEENTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Of a batch's places: how many the head may run at. Every number is a trace of its own."""


def select_places(supervised: BoolArray) -> IntArray:
    """List the places whose logits predict a supervised target.

    Args:
        supervised: bool[B, T], marks targets; column 0 is never one.

    Returns:
        i32[N], flat places b T + t in order. N is one of eight shares of B T, filled up with the last place of the
        first row, which predicts nothing.
    """
    n_rows, length = supervised.shape
    places = np.flatnonzero(np.roll(supervised, -1, axis=1) & (np.arange(length) < length - 1))
    sizes = [-(-n_rows * length * share // SELECTED_SIXTEENTHS[-1]) for share in SELECTED_SIXTEENTHS]
    selected = np.full(next(size for size in sizes if size >= len(places)), length - 1, dtype=np.int32)
    selected[: len(places)] = places
    return selected


def plan_batches(n_rows: int, batch_size: int, *, seed: int, epoch: int, shuffle: bool) -> list[list[int]]:
    """Divide one epoch's rows into batches: every row once, the last batch short if need be.

    Args:
        n_rows: Rows of the data set.
        batch_size: Rows of a batch.
        seed: The run's seed.
        epoch: Counts from 0; with the seed it fixes the order.
        shuffle: Draw an order; otherwise the rows' own.

    Returns:
        Row numbers, batch by batch.
    """
    order = np.random.default_rng((seed, epoch)).permutation(n_rows) if shuffle else np.arange(n_rows)
    return [order[start : start + batch_size].tolist() for start in range(0, n_rows, batch_size)]


def plan_steps(
    n_rows: int,
    batch_size: int,
    *,
    accumulation: int,
    seed: int,
    shuffle: bool,
    n_steps: int,
    first_step: int = 0,
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

    Yields:
        Row numbers: microbatches of rows.
    """
    per_epoch = steps_per_epoch(n_rows, batch_size, accumulation)
    for step in range(first_step, n_steps):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == first_step:
            batches = plan_batches(n_rows, batch_size, seed=seed, epoch=epoch, shuffle=shuffle)
        yield batches[position * accumulation : (position + 1) * accumulation]


def steps_per_epoch(n_rows: int, batch_size: int, accumulation: int) -> int:
    """Count the steps that pass over all rows once."""
    return -(-n_rows // (batch_size * accumulation))


def collate(examples: Sequence[Example], batch_size: int | None = None, pad_id: int = 0) -> Batch:
    """Pad examples on the right to one bucket.

    Args:
        examples: At least one.
        batch_size: Rows of the batch; short ones are filled with rows that count for nothing, so that the
            last batch of an epoch needs no trace of its own.
        pad_id: Token id written where there is none; no result depends on it.

    Returns:
        tokens i32[B, T], supervised and valid bool[B, T], selected i32[N], and the examples.

    Raises:
        BatchError: No examples, more than `batch_size`, or an example whose fields differ in length.
    """
    n_rows = batch_size or len(examples)
    if not examples or len(examples) > n_rows:
        msg = f"a batch of {n_rows} rows was to be made of {len(examples)} examples; give 1 to {n_rows}"
        raise BatchError(msg)
    length = bucket_length(max(len(example.tokens) for example in examples))
    tokens = np.full((n_rows, length), pad_id, dtype=np.int32)
    supervised = np.zeros((n_rows, length), dtype=np.bool_)
    valid = np.zeros((n_rows, length), dtype=np.bool_)
    for row, example in enumerate(examples):
        n_tokens = len(example.tokens)
        if not n_tokens or len(example.supervised) != n_tokens:
            msg = (
                f"{example.source}: {n_tokens} tokens and {len(example.supervised)} marks of what is supervised; "
                "an example needs one mark per token, and a token"
            )
            raise BatchError(msg)
        tokens[row, :n_tokens] = example.tokens
        supervised[row, :n_tokens] = example.supervised
        valid[row, :n_tokens] = True
    # Nothing precedes the first token, so it is no target.
    supervised[:, 0] = False
    selected = select_places(supervised)
    return Batch(mx.array(tokens), mx.array(supervised), mx.array(valid), mx.array(selected), tuple(examples))
