"""From examples to batches of few shapes. Pure."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..arguments import expect_type
from ..errors import BatchError
from ..ops.buckets import SMALLEST_BUCKET, bucket_examples, bucket_length, bucket_targets
from ..types import Batch, Example, IntArray, Targets, positions_of


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
    expect_type(examples, Sequence, "collate", "give a list of Examples")
    n_rows = batch_size or len(examples)
    _check(examples, len(examples), n_rows)
    length = bucket_length(max(1, *(len(example.tokens) - 1 for example in examples)), multiple)
    return _fill(examples, [(row, 0) for row in range(len(examples))], (n_rows, length), pad_id)


def make_stand_in(token: int) -> Batch:
    """Make a short batch that is run and not counted.

    Args:
        token: Any that the model can read, and that stands for no image.
    """
    tokens = np.full(SMALLEST_BUCKET, token, dtype=np.int32)
    marks = np.zeros(len(tokens), dtype=np.bool_)
    example = Example(source="a stand-in", tokens=tokens, supervised=~marks, placeholders=marks)
    return collate([example])._replace(is_stand_in=True)


def collate_packed(
    packs: Sequence[Sequence[Example]], batch_size: int | None = None, pad_id: int = 0, multiple: int = SMALLEST_BUCKET
) -> Batch:
    """Concatenate several examples in each row, and pad the rows on the right to one bucket.

    An example's last token predicts nothing and stands nowhere, so that no place predicts another example's token.

    Args:
        packs: The examples of each row; at least one row, and in each at least one.
        batch_size: As for `collate`, as are the next two.
        pad_id: See above.
        multiple: See above.

    Returns:
        The batch, with `segment_starts` and `segment_ids`.

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
    return batch._replace(valid=mx.array(segments > 0), segment_starts=tuple(starts), segment_ids=mx.array(segments))


def _check(examples: Sequence[Example], n_given: int, n_rows: int) -> None:
    if not examples or n_given > n_rows:
        msg = f"a batch of {n_rows} rows was to be made of {n_given} examples; give 1 to {n_rows}"
        raise BatchError(msg)
    for example in examples:
        expect_type(example, Example, "collate", "give Examples, as data.encoder makes them of Samples")
        n_tokens = len(example.tokens)
        if not n_tokens or len(example.supervised) != n_tokens:
            msg = (
                f"{example.source}: {n_tokens} tokens and {len(example.supervised)} marks of what is supervised; "
                "an example needs one mark per token, and a token"
            )
            raise BatchError(msg)
        _check_columns(example, examples[0])


def _check_columns(example: Example, first: Example) -> None:
    """Refuse columns that another example of the batch does not have, and those that have not a number per token."""
    if set(example.columns) != set(first.columns):
        names = sorted(set(example.columns) ^ set(first.columns))
        msg = f"{example.source}: it and {first.source} differ in the columns {names}; give both the same"
        raise BatchError(msg)
    for name, value in example.columns.items():
        if np.shape(value) not in {(), example.tokens.shape} or np.ndim(value) != np.ndim(first.columns[name]):
            msg = (
                f"{example.source}: the column {name!r} has the shape {np.shape(value)}; give a number, or one for "
                f"each of the {len(example.tokens)} tokens, in all rows alike"
            )
            raise BatchError(msg)


def _fill(examples: Sequence[Example], starts: Sequence[tuple[int, int]], shape: tuple[int, int], pad_id: int) -> Batch:
    """Write examples at their places (row, first place), later ones over the ends of earlier ones."""
    n_rows, length = shape
    tokens = np.full(shape, pad_id, dtype=np.int32)
    valid = np.zeros(shape, dtype=np.bool_)
    befores = []
    for (row, start), example in zip(starts, examples, strict=True):
        end = min(start + len(example.tokens), length)
        tokens[row, start:end] = example.tokens[: end - start]
        valid[row, start:end] = True
        befores.append(np.flatnonzero(example.supervised[1:]))
    first_places = [row * length + start for row, start in starts]
    n_targets = bucket_targets(sum(len(before) for before in befores), n_rows * length)
    return Batch(
        tokens=mx.array(tokens),
        valid=mx.array(valid),
        targets=_find_targets(examples, befores, first_places, (n_targets, n_rows)),
        rows=tuple(examples),
    )


def _find_targets(
    examples: Sequence[Example],
    befores: Sequence[npt.NDArray[np.int64]],
    first_places: Sequence[int],
    shape: tuple[int, int],
) -> Targets:
    """Put together what examples predict.

    Args:
        examples: S of them at most.
        befores: Of each, the tokens before its targets.
        first_places: Of each, where it begins in the flat batch.
        shape: (N, rows of the batch).
    """
    n_targets, n_rows = shape
    n_slots = n_rows if len(examples) <= n_rows else bucket_examples(len(examples))

    def fill(parts: Iterable[npt.NDArray[Any]], dtype: type, size: int = n_targets) -> mx.array:
        found = np.concatenate(list(parts))
        return mx.array(np.pad(found, (0, size - len(found))).astype(dtype))

    def column(name: str) -> mx.array:
        values = [np.asarray(example.columns[name], dtype=np.float32) for example in examples]
        if values[0].ndim:
            return fill((value[before + 1] for value, before in zip(values, befores, strict=True)), np.float32)
        return fill([np.stack(values)], np.float32, n_slots)

    return Targets(
        positions=fill((first + before for first, before in zip(first_places, befores, strict=True)), np.int32),
        ids=fill((example.tokens[before + 1] for example, before in zip(examples, befores, strict=True)), np.int32),
        weights=fill((np.ones(len(before)) for before in befores), np.float32),
        example=fill((np.full(len(before), number) for number, before in enumerate(befores)), np.int32),
        example_weights=fill([np.ones(len(examples))], np.float32, n_slots),
        group=fill([_number_groups(examples)], np.int32, n_slots),
        columns={name: column(name) for name in sorted(examples[0].columns)},
    )


def _number_groups(examples: Sequence[Example]) -> IntArray:
    """Number the groups of a batch's examples from 0, in the order in which they come."""
    numbers: dict[object, int] = {}
    keys = (("alone", place) if row.group is None else row.group for place, row in enumerate(examples))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int32)
