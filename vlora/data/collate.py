"""From examples to batches of few shapes. Pure."""

import itertools
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..errors import BatchError
from ..types import Batch, Example, positions_of

SMALLEST_BUCKET = 32
"""Tokens. Shorter rows are padded to it: a trace costs more than what would be saved."""

BUCKETS_PER_OCTAVE = 8
"""Between a length and its double there are at most so many buckets, so at most 12.5 % is padding."""

FEWEST_SELECTED = 16
"""The head runs at this part of a batch's places at least: fewer numbers of places are fewer traces."""


def bucket_length(n_tokens: int, multiple: int = SMALLEST_BUCKET) -> int:
    """Round a length up to one of few, so that a run traces few shapes.

    Args:
        n_tokens: At least 1.
        multiple: What every length is a multiple of; a power of two. Some devices are faster at multiples of more.

    Returns:
        A multiple of `multiple`, at most 12.5 % above `n_tokens` from 8 `multiple` tokens on; lengths up to L fall
        into 8 log2(L / (8 multiple)) + 8 buckets.
    """
    octave = 2 ** max(0, (n_tokens - 1).bit_length() - 1)
    width = max(multiple, octave // BUCKETS_PER_OCTAVE)
    return int(-(-n_tokens // width) * width)


def bucket_selected(n_selected: int, n_positions: int) -> int:
    """Round the number of places at which the head runs up to one of at most seven.

    They are powers of two, from a quarter of all places on also one and a half times such, and all places. None depends
    on the batch's length: batches whose answers are alike share one, whatever the prompts.
    """
    size = 1 << max(0, (n_positions - 1) // FEWEST_SELECTED).bit_length()
    while size < n_selected:
        between = size * 3 // 2
        if size * 4 >= n_positions and between >= n_selected:
            size = between
            break
        size *= 2
    return min(size, n_positions)


def collate(
    examples: Sequence[Example], batch_size: int | None = None, pad_id: int = 0, multiple: int = SMALLEST_BUCKET
) -> Batch:
    """Pad examples on the right to one bucket.

    Args:
        examples: At least one.
        batch_size: Rows of the batch; short ones are filled with rows that count for nothing, so that the
            last batch of an epoch needs no trace of its own.
        pad_id: Token id written where there is none; no result depends on it.
        multiple: As for `bucket_length`.

    Returns:
        The batch; a row's first token is never a target, because nothing precedes it.

    Raises:
        BatchError: No examples, more than `batch_size`, or an example whose fields differ in length.
    """
    n_rows = batch_size or len(examples)
    _check(examples, len(examples), n_rows)
    length = bucket_length(max(1, *(len(example.tokens) - 1 for example in examples)), multiple)
    return _fill(examples, [(row, 0) for row in range(len(examples))], (n_rows, length), pad_id)


def collate_packed(
    packs: Sequence[Sequence[Example]], batch_size: int | None = None, pad_id: int = 0, multiple: int = SMALLEST_BUCKET
) -> Batch:
    """Put several examples into each row, one behind the other, and pad the rows on the right to one bucket.

    An example's last token predicts nothing and stands nowhere, so that no place predicts another example's token.

    Args:
        packs: The examples of each row; at least one row, and in each at least one.
        batch_size: As for `collate`, as are the next two.
        pad_id: See above.
        multiple: See above.

    Returns:
        The batch, with `starts` and `segments`.

    Raises:
        BatchError: As for `collate`.
    """
    n_rows = batch_size or len(packs)
    examples = [example for pack in packs for example in pack]
    _check(examples, len(packs), n_rows)
    places = [np.cumsum([0, *(positions_of(example) for example in pack)]).tolist() for pack in packs]
    length = bucket_length(max(ends[-1] for ends in places), multiple)
    starts = [(row, start) for row, ends in enumerate(places) for start in ends[:-1]]
    segments = np.zeros((n_rows, length), dtype=np.int32)
    for row, ends in enumerate(places):
        for number, (start, end) in enumerate(itertools.pairwise(ends), start=1):
            segments[row, start:end] = number
    batch = _fill(examples, starts, (n_rows, length), pad_id)
    return batch._replace(valid=mx.array(segments > 0), starts=tuple(starts), segments=mx.array(segments))


def _check(examples: Sequence[Example], n_given: int, n_rows: int) -> None:
    if not examples or n_given > n_rows:
        msg = f"a batch of {n_rows} rows was to be made of {n_given} examples; give 1 to {n_rows}"
        raise BatchError(msg)
    for example in examples:
        n_tokens = len(example.tokens)
        if not n_tokens or len(example.supervised) != n_tokens:
            msg = (
                f"{example.source}: {n_tokens} tokens and {len(example.supervised)} marks of what is supervised; "
                "an example needs one mark per token, and a token"
            )
            raise BatchError(msg)


def _fill(examples: Sequence[Example], starts: Sequence[tuple[int, int]], shape: tuple[int, int], pad_id: int) -> Batch:
    """Write examples at their places (row, first place), later ones over the ends of earlier ones."""
    n_rows, length = shape
    tokens = np.full(shape, pad_id, dtype=np.int32)
    valid = np.zeros(shape, dtype=np.bool_)
    selected, targets = [], []
    for (row, start), example in zip(starts, examples, strict=True):
        end = min(start + len(example.tokens), length)
        tokens[row, start:end] = example.tokens[: end - start]
        valid[row, start:end] = True
        before = np.flatnonzero(example.supervised[1:])
        selected.append(row * length + start + before)
        targets.append(example.tokens[before + 1])
    n_selected = sum(len(part) for part in selected)
    missing = bucket_selected(n_selected, n_rows * length) - n_selected
    return Batch(
        tokens=mx.array(tokens),
        valid=mx.array(valid),
        selected=mx.array(np.pad(np.concatenate(selected), (0, missing)).astype(np.int32)),
        targets=mx.array(np.pad(np.concatenate(targets), (0, missing)).astype(np.int32)),
        weights=mx.array(np.pad(np.ones(n_selected, dtype=np.float32), (0, missing))),
        rows=tuple(examples),
    )
