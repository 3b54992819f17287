"""Rows that are joined to the one before them in their microbatch, which another rank may have. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsIndex

import attrs

from ..errors import SampleError
from ..types import Example
from .loader import DataLoader, Encoded
from .rows import RowDataset


@attrs.frozen
class LinkedRow:
    """A row of a microbatch, and the others.

    Attributes:
        index: Its number.
        before: Theirs, that of the nearest one before it first; before the first row comes the last one.
    """

    index: int
    before: tuple[int, ...]

    def __index__(self) -> int:
        """Give the row's number, by which it is shared out and read as others are."""
        return self.index


StepRows = list[list[int | LinkedRow]]
"""The rows of a step, microbatch by microbatch."""


def link_rows(steps: Iterable[Sequence[Sequence[int]]]) -> Iterator[list[list[LinkedRow]]]:
    """Let the rows of each microbatch know one another, before ranks share them out.

    Args:
        steps: Row indices: microbatches of each step, with the rows of all ranks.

    Yields:
        The same, linked.
    """
    for batches in steps:
        yield [
            [
                LinkedRow(row, (*reversed(batch[:place]), *reversed(batch[place + 1 :])))
                for place, row in enumerate(batch)
            ]
            for batch in batches
        ]


@attrs.define(eq=False, kw_only=True)
class LinkingLoader(DataLoader):
    """Reads the rows of one rank, each with the row before it in the microbatch of all.

    Attributes:
        link: Joins a row's examples, which have a group, with those of the nearest row before it that can be learned
            from; with none if the row is alone.
    """

    link: Callable[[tuple[Example, ...], tuple[Example, ...]], tuple[Example, ...]]

    def _encode(self, rows: RowDataset, row: SupportsIndex) -> Encoded:
        """Encode a row and, where it knows others, the one before it; whose row it is says what is wrong with it."""
        made = super()._encode(rows, row)
        if isinstance(made, SampleError) or not isinstance(row, LinkedRow):
            return made
        group = next(self._n_encoded)
        own = tuple(attrs.evolve(example, group=group) for example in made)
        for other in row.before:
            try:
                return self.link(own, self.encode(rows.read(other)[1]))
            except SampleError:
                continue
        return self.link(own, ())
