"""How long rows are, found once."""

import attrs
import pytest

from tests.data.loading import N_ROWS, make_loader, make_rows
from vlora.data.drawn_rows import NUMBERS
from vlora.data.measuring import measure_drawn, measure_rows
from vlora.data.prefetch import WorkerPool
from vlora.types import Sample


@pytest.mark.parametrize("n_workers", [0, 2])
def test_lengths_are_estimated_once(n_workers: int) -> None:
    """A row's length is asked for again every epoch, and found once; one without a conversation has none."""
    table = [{"question": "a", "answer": str(number)} if number != 1 else {} for number in range(N_ROWS)]
    rows, asked = attrs.evolve(make_rows(), table=table), []

    def estimate(sample: Sample) -> int:
        asked.append(sample.source)
        return 10 + int(sample.turns[-1].text)

    with WorkerPool(n_workers) as workers:
        measure = measure_rows(make_loader(workers, rows), estimate)
        assert list(measure([0, 1, 3])) == list(measure([0, 1, 3])) == [10, 0, 13]
    assert sorted(asked) == ["rows row 0", "rows row 3"]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_rows_of_streams_are_measured_when_they_are_drawn(n_workers: int) -> None:
    """However many there are; one without a conversation has no length, and encoding says why."""
    table = [{"question": "a", "answer": str(number)} if number != 1 else {} for number in range(N_ROWS)]
    rows = attrs.evolve(make_rows(), table=table, indices=NUMBERS)

    with WorkerPool(n_workers) as workers:
        measure = measure_drawn(make_loader(workers, rows), lambda sample: 10 + int(sample.turns[-1].text))
        assert list(measure([3, 1, 0])) == [13, 0, 10]
