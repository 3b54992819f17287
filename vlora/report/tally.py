"""Data of every row that are kept while rows are counted: numbers, and contents that repeat. Pure."""

from array import array
from collections import Counter
from collections.abc import Iterator

import attrs

MOST_ANSWERS = 10_000
"""Most different answers that are counted; a data set with more has no classes."""
CLASS_LENGTH = 40
"""Longest answer that may be a class, in characters."""


def _numbers() -> "array[int]":
    return array("q")


@attrs.define(kw_only=True)
class RowNumbers:
    """Numbers of the rows that can be learned from, in their order.

    Attributes:
        rows: Row numbers.
        n_tokens: Tokens of each whole row.
        n_kept: Those that `data.max_seq_length` leaves; the next two are of these.
        n_image_tokens: Those that stand for images.
        n_supervised: Those that are learned.
        widths: Pixels of each image as the processor gets it; images of all rows follow one another.
        heights: Likewise.
    """

    rows: "array[int]" = attrs.field(factory=_numbers)
    n_tokens: "array[int]" = attrs.field(factory=_numbers)
    n_kept: "array[int]" = attrs.field(factory=_numbers)
    n_image_tokens: "array[int]" = attrs.field(factory=_numbers)
    n_supervised: "array[int]" = attrs.field(factory=_numbers)
    widths: "array[int]" = attrs.field(factory=_numbers)
    heights: "array[int]" = attrs.field(factory=_numbers)

    def longest(self, n: int) -> list[int]:
        """Return the numbers of the longest rows, the longest first."""
        order = sorted(range(len(self.rows)), key=lambda place: (-self.n_tokens[place], self.rows[place]))
        return [self.rows[place] for place in order[:n]]


@attrs.define
class Repeats:
    """Contents by key, and the rows in which they occur.

    Attributes:
        first: Key to the first row.
        again: Key to the other rows, for contents that occur more than once.
    """

    first: dict[int, int] = attrs.field(factory=dict)
    again: "dict[int, array[int]]" = attrs.field(factory=dict)

    def add(self, key: int, row: int) -> int:
        """Count a content of a row, and return the row in which it occurred first."""
        first = self.first.setdefault(key, row)
        if first != row:
            self.again.setdefault(key, _numbers()).append(row)
        return first

    def groups(self) -> list[list[int]]:
        """Return the rows of each repeated content, the most frequent one first."""
        found = [list(dict.fromkeys([self.first[key], *rows])) for key, rows in self.again.items()]
        return sorted(found, key=lambda rows: (-len(rows), rows[0]))

    def shared(self, other: "Repeats") -> Iterator[tuple[int, int]]:
        """Yield the rows of contents that also occur in another collection: (row, first row there)."""
        for key, row in self.first.items():
            if key in other.first:
                for each in dict.fromkeys([row, *self.again.get(key, ())]):
                    yield each, other.first[key]


@attrs.define
class Answers:
    """The answers of rows, as far as they may be classes.

    Attributes:
        counts: Answer to its rows.
        n_rows: All rows with an answer.
        n_other: Rows whose answer is too long, or one of too many.
    """

    counts: Counter[str] = attrs.field(factory=Counter)
    n_rows: int = 0
    n_other: int = 0

    def add(self, answer: str) -> None:
        """Count an answer."""
        self.n_rows += 1
        if len(answer) > CLASS_LENGTH or (answer not in self.counts and len(self.counts) >= MOST_ANSWERS):
            self.n_other += 1
        else:
            self.counts[answer] += 1

    def are_classes(self) -> bool:
        """Whether the answers are classes: few, and each with several rows on average."""
        return bool(self.counts) and self.n_other <= self.n_rows // 2 and 2 * len(self.counts) <= self.n_rows
