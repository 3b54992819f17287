"""Rows encoded one by one, and the handling of rows that cannot be encoded. Pure."""

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import LongRowError, SampleError
from ..recipe.schema import DataSection
from ..types import Sample
from .rows import RowDataset

Made = TypeVar("Made")
Bad = TypeVar("Bad")


def first_examples(
    rows: RowDataset,
    n: int,
    encode: Callable[[Sample], Made],
    on_bad: Callable[[int, SampleError], Bad | None],
    *,
    first: int = 0,
    every: int = 1,
) -> Iterator[Made | Bad]:
    """Make examples of the first rows.

    Args:
        rows: The rows.
        n: How many of them are read at most.
        encode: Makes an example of a sample.
        on_bad: Is given the index of a row that cannot be read or encoded, and the error; raises it, or gives what
            stands for the row, or None to leave the row out.
        first: The index of the first of them.
        every: How much larger the index of each is than that of the one before.
    """
    for index in itertools.islice(range(first, len(rows), every), n):
        found: Made | Bad | None
        try:
            with rows.locating(index):
                found = encode(rows[index])
        except SampleError as error:
            found = on_bad(index, error)
        if found is not None:
            yield found


def is_skipped(error: SampleError, data: DataSection) -> bool:
    """Whether the recipe has a row left out for an error."""
    return (data.on_long_row if isinstance(error, LongRowError) else data.on_bad_row) != "raise"


def raise_unless_skipped(error: SampleError, data: DataSection) -> None:
    """Raise the error of a row, unless the recipe has such rows left out.

    Raises:
        SampleError: The error, with the key that would have such rows left out.
    """
    if is_skipped(error, data):
        return
    if isinstance(error, LongRowError):
        msg = (
            f'{error}; with data.on_long_row = "skip" such rows are left out, with "cut" those are shortened whose '
            "question leaves room"
        )
        raise LongRowError(msg) from None
    msg = f'{error}; with data.on_bad_row = "skip" such rows are left out'
    raise SampleError(msg) from None
