"""Rows of several data sets one after the other, each read as its own data set has it."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import numpy as np

from ..facts import Columns, SourceShare
from ..types import Sample
from .epoch_order import EpochOrder
from .format.samples import Preferences
from .mixture import Mixture
from .readers.stream import RowStream
from .readers.table import join_tables
from .rows import FIRST_ROWS, RowDataset
from .values import Row

T = TypeVar("T")


@attrs.frozen(eq=False)
class _Chosen:
    """The table of a data set's own rows only, numbered as they are in `indices` of its data set."""

    rows: RowDataset

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows.table[int(self.rows.indices[index])]


@attrs.frozen(eq=False, kw_only=True)
class MixedRows(RowDataset):
    """Rows of several data sets, numbered one set after the other. `mix_rows` makes one.

    Attributes:
        parts: The data sets.
        mixture: How the sources of a recipe are mixed; None for files that are one source together.
    """

    parts: Sequence[RowDataset]
    mixture: Mixture | None = None

    def read(self, index: int) -> tuple[Row, Sample]:
        """Read a row as its table has it, and as a conversation."""
        part, own = self.find_part(index)
        return part.read(own)

    def name_row(self, index: int) -> str:
        """Name a row as messages do."""
        part, own = self.find_part(index)
        return part.name_row(own)

    def line_of(self, index: int) -> str | None:
        """Say on which line of its file a row begins; None of rows that are no lines."""
        part, own = self.find_part(index)
        return part.line_of(own)

    def name_source(self, index: int) -> str | None:
        """Name the source of a row; None of files that are one source together."""
        return None if self.mixture is None else self.find_part(index)[0].name

    def find_numbered(self, number: int) -> Iterator[int]:
        """Find the rows of a number: one of each data set that has one."""
        first = 0
        for part in self.parts:
            for own in part.find_numbered(number):
                yield from np.flatnonzero(np.asarray(self.indices) == first + own).tolist()
            first += len(part)

    def number_range(self) -> tuple[int, int]:
        """The lowest and the highest number of a row."""
        lowest, highest = zip(*(part.number_range() for part in self.parts), strict=True)
        return min(lowest), max(highest)

    def first_samples(self, n_rows: int = FIRST_ROWS) -> Iterator[Sample]:
        """Yield the conversations of the first rows of all data sets, which take turns."""
        each = -(-n_rows // len(self.parts))
        numbers = np.asarray(self.indices)
        first = self._ends - [len(part) for part in self.parts]
        found = (numbers[(begin <= numbers) & (numbers < end)] for begin, end in zip(first, self._ends, strict=True))
        chosen = [(own[:each] - begin).tolist() for own, begin in zip(found, first, strict=True)]
        samples = (part.unseen_samples(own) for part, own in zip(self.parts, chosen, strict=True))
        turns = itertools.zip_longest(*samples)
        return (sample for samples in turns for sample in samples if sample is not None)

    def columns(self) -> Columns:
        """Return which columns of the rows that were read so far are used, and which are not."""
        found = [(part.name, part.columns()) for part in self.parts]
        if self.mixture is None:
            # Files of one source are alike.
            used = {column: how for _, columns in reversed(found) for column, how in columns.used.items()}
            unused = {column for _, columns in found for column in columns.unused} - used.keys()
            missing = set.intersection(*(set(columns.missing) for _, columns in found))
            return Columns(used=used, unused=tuple(sorted(unused)), missing=tuple(sorted(missing)))
        return Columns(
            used=dict(_name_sources([(name, columns.used) for name, columns in found])),
            unused=tuple(dict(_name_sources([(name, dict.fromkeys(columns.unused)) for name, columns in found]))),
            missing=tuple(dict(_name_sources([(name, dict.fromkeys(columns.missing)) for name, columns in found]))),
        )

    def with_preferences(self, preferences: Preferences | None) -> "MixedRows":
        """Let rows be read as preferences."""
        return attrs.evolve(self, parts=[part.with_preferences(preferences) for part in self.parts])

    def order(self, *, seed: int, shuffle: bool) -> EpochOrder:
        """Make what gives the order of each epoch; see `Mixture`."""
        if self.mixture is None:
            return super().order(seed=seed, shuffle=shuffle)
        return self.mixture.order(seed=seed, shuffle=shuffle)

    def shares(self) -> tuple[SourceShare, ...]:
        """Say how the sources are mixed; nothing for files of one source."""
        mixture = self.mixture
        if mixture is None:
            return ()
        if self.streams:
            is_known = mixture.weights is not None or len(self.parts) == 1
            shares = mixture.shares if is_known else [None] * len(self.parts)
            return tuple(
                SourceShare(name=part.name, wanted=share, real=share)
                for part, share in zip(self.parts, shares, strict=True)
            )
        found = zip(self.parts, mixture.shares, mixture.quotas, strict=True)
        return tuple(
            SourceShare(
                name=part.name,
                n_rows=len(part),
                wanted=share,
                n_drawn=quota,
                real=quota / mixture.n_rows,
            )
            for part, share, quota in found
        )

    @property
    def commits(self) -> Mapping[str, str]:
        """Versions of hub data sets by the key that names them."""
        found = enumerate(part.commit for part in self.parts)
        return {f"data.sources[{place}]": commit for place, commit in found if commit is not None}

    @property
    def streams(self) -> tuple[RowStream, ...]:
        """What the rows are the first ones of, source by source."""
        return tuple(stream for part in self.parts for stream in part.streams)

    @functools.cached_property
    def _ends(self) -> Any:
        return np.cumsum([len(part) for part in self.parts])

    def find_part(self, index: int) -> tuple[RowDataset, int]:
        """Find the data set of a row, and its index there."""
        number = int(self.indices[index])
        place = int(np.searchsorted(self._ends, number, side="right"))
        part = self.parts[place]
        return part, number - int(self._ends[place]) + len(part)


def mix_rows(
    name: str,
    parts: Sequence[RowDataset],
    *,
    indices: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    is_mixture: bool = True,
) -> MixedRows:
    """Join data sets.

    Args:
        name: How messages name all rows together.
        parts: The data sets.
        indices: Which of the rows, numbered one set after the other; None for all of them.
        weights: Shares of the rows that are learned, one for each data set; None for each row once per epoch.
        is_mixture: Whether the data sets are sources, which are mixed and counted apart.
    """
    table = join_tables([_Chosen(part) for part in parts])
    return MixedRows(
        name=name,
        table=table,
        indices=range(len(table)) if indices is None else indices,
        parts=tuple(parts),
        mixture=Mixture(tuple(map(len, parts)), None if weights is None else tuple(weights)) if is_mixture else None,
    )


def _name_sources(sources: Sequence[tuple[str, Mapping[str, T]]]) -> Iterator[tuple[str, T]]:
    """Yield the columns of all sources; those that are not the same in all of them with the source's name."""
    common = set.intersection(*(set(columns.items()) for _, columns in sources))
    for name, columns in sources:
        for column, how in columns.items():
            yield (column if (column, how) in common else f"{column} of {name}"), how
