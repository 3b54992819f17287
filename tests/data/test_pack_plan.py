"""Plans of packed rows: their packs become batches."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vlora.data.pack_plan import Item, Pack, collate_steps, count_positions
from vlora.data.packing import PackedSteps
from vlora.types import Batch, Example

LENGTHS = (5, 3, 9)


def make_example(number: int) -> Example:
    """Make a row's example, whose tokens are the row's number."""
    marks = np.zeros(LENGTHS[number], dtype=np.bool_)
    return Example(str(number), np.full(LENGTHS[number], number, dtype=np.int32), marks, marks)


class Plan:
    """One step of two microbatches: rows 2 and 0 in a pack, then row 1."""

    batch_size = 2

    def indices(self) -> Iterator[int]:
        """Read the rows in their order."""
        yield from range(len(LENGTHS))

    def steps(self, encoded: Iterable[tuple[Example, ...] | None]) -> Iterator[list[Batch]]:
        """Make the step."""
        return collate_steps(self, encoded)

    def plan(self, found: Iterable[Item | None], count: Callable[[Item], int]) -> Iterator[list[list[Pack[Item]]]]:
        """Choose the packs; both answers of row 1 stand in one."""
        rows = [row for row in found if row is not None]
        assert list(map(count, rows)) == [4, 4, 8]
        yield [[[(2, rows[2]), (0, rows[0])]], [[(1, rows[1])]]]


def test_packs_become_batches() -> None:
    """Examples of a pack stand in line, those of a row beside each other; a microbatch has room for all its packs."""
    encoded = [(make_example(0),), (make_example(1), make_example(1)), (make_example(2),)]
    (step,) = Plan().steps(encoded)

    assert [[example.source for example in batch.rows] for batch in step] == [["2", "0"], ["1", "1"]]
    assert [span for batch in step for span in batch.spans] == [(0, 0, 8), (0, 8, 4), (0, 0, 2), (0, 2, 2)]
    assert all(len(batch.tokens) == Plan.batch_size for batch in step)


def test_places_of_a_row_are_those_that_its_plan_counts() -> None:
    """No target follows a last token, so an example takes a place less than it has tokens."""
    rows = [(make_example(0),), (make_example(1), make_example(1))]
    whole, divided = (
        PackedSteps(n_rows=2, capacity=capacity, batch_size=1, accumulation=1, seed=0, shuffle=False, n_epochs=1).steps(
            rows
        )
        for capacity in (8, 7)
    )

    assert list(map(count_positions, rows)) == [4, 4]
    assert (len(list(whole)), len(list(divided))) == (1, 2)
