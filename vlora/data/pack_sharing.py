"""Packed rows on several devices: every rank plans the same packs, and encodes the rows of its own."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import attrs

from ..errors import SampleError
from ..types import Batch
from .collate import collate_packed
from .examples import raise_unless_skipped
from .loader import ROWS_OF_A_PACK, DataLoader, flatten
from .pack_plan import Item, Pack, PackPlan
from .rows import RowDataset


@attrs.frozen(eq=False, kw_only=True)
class PackShare:
    """One rank's part in packed rows.

    Attributes:
        rank: Which one, from 0.
        n_ranks: How many there are.
        count: Gives the places that the row of a number takes, without its pixels.
    """

    rank: int
    n_ranks: int
    count: Callable[[int], int]

    def pack(self, loader: DataLoader, rows: RowDataset, packed: PackPlan, n_ahead: int) -> Iterator[list[Batch]]:
        """Plan packs by the lengths of all rows, which are not encoded for it, and encode those of this rank.

        A row that cannot be learned from is told by the first rank. One whose image turns out to be damaged is told by
        the rank that it belongs to, and leaves a gap in its pack.

        Args:
            loader: Reads the rows.
            rows: The rows.
            packed: Plans the packs of all ranks.
            n_ahead: About how many batches are encoded ahead.

        Yields:
            The packs of each step, batch by batch.
        """
        n_measured, n_encoded = (size * n_ahead * ROWS_OF_A_PACK for size in (packed.batch_size, loader.batch_size))
        measured = loader.workers.map(self._measure, packed.indices(), n_measured)
        steps = packed.plan(map(functools.partial(self._take_measured, loader), measured), int)
        plan, drawn = itertools.tee(self._share(steps, loader))
        indices = (index for packs in drawn for own in packs for pack in own for index in pack)
        encoded = loader.read(rows, indices, n_encoded)
        for microbatches in plan:
            read = [[list(itertools.islice(encoded, len(pack))) for pack in packs] for packs in microbatches]
            kept = [[flatten([row for row in pack if row is not None]) for pack in packs] for packs in read]
            whole = [list(filter(None, packs)) for packs in kept]
            made = [collate_packed(packs, loader.batch_size) if packs else loader.stand_in for packs in whole]
            yield [batch() if callable(batch) else batch for batch in made if batch is not None]

    def _share(self, steps: Iterable[list[list[Pack[int]]]], loader: DataLoader) -> Iterator[list[list[list[int]]]]:
        """Choose this rank's packs."""
        is_even = loader.stand_in is not None
        return share_packs(steps, self.rank, self.n_ranks, loader.batch_size, is_even=is_even)

    def _measure(self, index: int) -> int | SampleError:
        """Give the places that a row takes, or why it cannot be learned from."""
        try:
            return self.count(index)
        except SampleError as error:
            return error

    def _take_measured(self, loader: DataLoader, found: int | SampleError) -> int | None:
        if isinstance(found, int):
            return found
        if self.rank == 0:
            loader.skip(found)
        else:
            raise_unless_skipped(found, loader.data)
        return None


def share_packs(
    steps: Iterable[list[list[Pack[Item]]]], rank: int, n_ranks: int, batch_size: int, *, is_even: bool = False
) -> Iterator[list[list[list[int]]]]:
    """Yield one rank's packs of each step; of all ranks together they are those of the step, each once.

    Args:
        steps: As `PackedSteps.plan` gives them.
        rank: Whose packs; from 0.
        n_ranks: Ranks among which the packs are shared out. They take turns: the fullest come first.
        batch_size: Packs of one of its microbatches at most; where it has more, they are divided.
        is_even: Whether all ranks have as many microbatches, some of them empty.

    Yields:
        Microbatches of packs of row indices, none of them empty unless `is_even`.
    """
    for microbatches in steps:
        shares = [[[index for index, _ in pack] for pack in packs[rank::n_ranks]] for packs in microbatches]
        # The first rank has the most packs.
        sizes = [len(packs[::n_ranks] if is_even else packs[rank::n_ranks]) for packs in microbatches]
        yield [
            own[start : start + batch_size]
            for own, size in zip(shares, sizes, strict=True)
            for start in range(0, size, batch_size)
        ]
