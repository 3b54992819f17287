"""Rows that are joined to another one, which another rank may have. Pure.

To the one before them in their microbatch; or, where rows are packed and their microbatches show with their lengths
only, to one that the run's seed draws, of streams to the one that was drawn before them. A row that is alone in its
microbatch is joined to one that the seed draws, too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsIndex

import attrs
import numpy as np

from ..errors import SampleError
from ..types import Example, Sample
from .loader import DataLoader, Encoded
from .rows import RowDataset

N_DRAWN = 8
"""Other rows that are drawn for a row: the first of them that can be learned from is taken."""

_LINKS = 5
"""Keeps the draws of other rows apart from others of the same seed."""


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


def link_alone(
    steps: Iterable[Sequence[Sequence[int | LinkedRow]]], draw: Callable[[int], LinkedRow]
) -> Iterator[StepRows]:
    """Draw others for each row that is alone in its microbatch, as the last one of an epoch may be.

    Args:
        steps: Microbatches of each step, with the rows of all ranks.
        draw: Gives a row with its others, the same whenever it is asked.

    Yields:
        The same, with such rows linked.
    """
    for batches in steps:
        yield [[draw(int(batch[0].__index__()))] if len(batch) == 1 else [*batch] for batch in batches]


def draw_link(index: int, n_rows: int, seed: int) -> LinkedRow:
    """Draw the others of a row, the same whenever it is read: so far behind it in the data, in a circle.

    Neighbours in the data may be answers to one question; rows that are a random number of rows apart are not.
    """
    offsets = np.random.default_rng((seed, _LINKS)).choice(n_rows - 1, min(N_DRAWN, n_rows - 1), replace=False)
    return LinkedRow(index, tuple((index + 1 + offset) % n_rows for offset in offsets.tolist()))


@attrs.define(eq=False, kw_only=True)
class LinkingLoader(DataLoader):
    """Reads the rows of one rank, each with another one: that before it in the microbatch of all, or a drawn one.

    Attributes:
        seed: Draws the others of rows that do not know them, but of streamed ones; None where such rows are joined to
            none.
        link: Joins a row's examples, which have a group, with those of the nearest row before it that can be learned
            from; with none if the row is alone.
    """

    link: Callable[[tuple[Example, ...], tuple[Example, ...]], tuple[Example, ...]]
    seed: int | None = None

    def join_other(
        self,
        rows: RowDataset,
        row: SupportsIndex,
        own: tuple[Example, ...],
        encode: Callable[[Sample], tuple[Example, ...]],
    ) -> tuple[Example, ...]:
        """Join a row's examples with those of the first of its others that can be learned from.

        Args:
            rows: The rows.
            row: Its number, or what knows its others, too.
            own: Its examples.
            encode: Makes the examples of another row.
        """
        linked = row
        if not isinstance(linked, LinkedRow):
            if self.seed is None:
                return own
            linked = self._link(rows, int(row.__index__()), self.seed)
        for other in linked.before:
            try:
                return self.link(own, encode(rows.read(other)[1]))
            except SampleError:
                continue
        return self.link(own, ())

    def _link(self, rows: RowDataset, index: int, seed: int) -> LinkedRow:
        if self.drawn is not None and rows is self.drawn.rows:
            return LinkedRow(index, self.drawn.find_before(index))
        return draw_link(index, len(rows), seed)

    def _encode(self, rows: RowDataset, row: SupportsIndex) -> Encoded:
        """Encode a row and, where it has others, one of them; whose row it is says what is wrong with it."""
        made = super()._encode(rows, row)
        if isinstance(made, SampleError) or (self.seed is None and not isinstance(row, LinkedRow)):
            return made
        group = next(self._n_encoded)
        return self.join_other(rows, row, tuple(attrs.evolve(example, group=group) for example in made), self.encode)
