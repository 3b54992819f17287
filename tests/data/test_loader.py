"""Rows read ahead: marked, batched, skipped and measured without a model."""

from collections.abc import Iterator, Sequence

import attrs
import pytest

from tests.data.loading import BAD, N_ROWS, make_loader, make_rows
from vlora.data.collate import make_stand_in
from vlora.data.packing import PackedSteps
from vlora.data.prefetch import WorkerPool
from vlora.errors import SampleError
from vlora.types import RowMark


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    """Work in threads, and without."""
    with WorkerPool(request.param) as pool:
        yield pool


def test_batches_follow_their_plan(workers: WorkerPool) -> None:
    """Bad rows are missing from their batch and counted; rows to train on are marked, others are not."""
    rows = make_rows()
    loader = make_loader(workers, rows)
    plan = [[[5, 4], [3, 2]], [[2]], [[1, 0]]]
    steps = list(loader.collate(rows, plan, 2))
    found = [[[example.source for example in batch.rows] for batch in step] for step in steps]

    assert found == [[["rows row 5", "rows row 4"], ["rows row 3"]], [], [["rows row 1", "rows row 0"]]]
    assert [row.mark for row in steps[0][0].rows] == [RowMark(index=5, digest="5"), RowMark(index=4, digest="4")]
    assert loader.drain_skipped() == [f"rows row {BAD}: is bad"] * 2
    assert loader.drain_skipped() == []
    assert len(loader.skipped) == 2

    valid = make_rows("valid")
    ((batch,),) = loader.collate(valid, [[[0, 1]]], 1)
    assert [(row.source, row.mark) for row in batch.rows] == [("valid row 0", None), ("valid row 1", None)]


def test_lengths_are_multiples(workers: WorkerPool) -> None:
    """Of what the loader is told for the rows of a batch."""
    rows = make_rows()
    told: list[tuple[list[int], int]] = []

    def whole_tiles(counts: Sequence[int], n_rows: int) -> int:
        told.append((list(counts), n_rows))
        return 128

    loader = make_loader(workers, rows)
    ((short,),) = loader.collate(rows, [[[0, 1]]], 1)
    ((long,),) = attrs.evolve(loader, multiple=whole_tiles).collate(rows, [[[0, 1]]], 1)

    assert (short.tokens.shape[1], long.tokens.shape[1]) == (32, 128)
    assert told == [([len(row.tokens) for row in long.rows], long.tokens.shape[0])]


def test_a_bad_row_comes_in_its_turn(workers: WorkerPool) -> None:
    """The batches before it are there first."""
    rows = make_rows()
    steps = make_loader(workers, rows, on_bad_row="raise").collate(rows, [[[0]], [[1]], [[BAD]]], 8)

    assert [batch.rows[0].source for step in (next(steps), next(steps)) for batch in step] == [
        "rows row 0",
        "rows row 1",
    ]
    with pytest.raises(SampleError, match=r"row 2: is bad; with data\.on_bad_row"):
        next(steps)


def test_rows_are_packed(workers: WorkerPool) -> None:
    """All but the bad one, each once."""
    rows = make_rows()
    packed = PackedSteps(
        n_rows=N_ROWS, capacity=32, batch_size=1, accumulation=1, seed=0, shuffle=True, n_steps=None, n_epochs=1
    )
    found = [
        row.source for step in make_loader(workers, rows).pack(rows, packed, 1) for batch in step for row in batch.rows
    ]

    assert sorted(found) == [f"rows row {number}" for number in range(N_ROWS) if number != BAD]


def test_a_run_begins_with_a_row(workers: WorkerPool) -> None:
    """The first steps are read up to one that has a row; without one a new run ends, and one that goes on does not."""
    rows = make_rows()
    loader = make_loader(workers, rows)
    primed = loader.prime(loader.collate(rows, [[[BAD]], [[0]]], 1), 2, is_new=True)
    assert loader.drain_skipped() == [f"rows row {BAD}: is bad"]
    assert [len(step) for step in primed] == [0, 1]

    plan = [[[BAD]], [[BAD]]]
    assert [len(step) for step in loader.prime(loader.collate(rows, plan, 1), 2, is_new=False)] == [0, 0]
    with pytest.raises(SampleError, match=r"rows: none of the first 5 rows .* the last one was rows row 2: is bad"):
        loader.prime(loader.collate(rows, plan, 1), 2, is_new=True)


def test_stand_ins_take_the_place_of_missing_batches(workers: WorkerPool) -> None:
    """Of those that have no row by plan, and of those whose rows are bad; a run does not begin with one."""
    rows = make_rows()
    loader = attrs.evolve(make_loader(workers, rows), stand_in=lambda: make_stand_in(1))
    plan = [[[BAD], []], [[0], []]]
    primed = loader.prime(loader.collate(rows, plan, 1), 2, is_new=True)

    assert [[batch.is_stand_in for batch in step] for step in primed] == [[True, True], [False, True]]
    with pytest.raises(SampleError, match="none of the first"):
        loader.prime(loader.collate(rows, plan[:1], 1), 1, is_new=True)
