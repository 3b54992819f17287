"""Rows read ahead: marked, batched, skipped and measured without a model."""

from collections.abc import Iterator
from typing import Literal

import attrs
import numpy as np
import pytest

from vlora.data.loader import DataLoader
from vlora.data.packing import PackedSteps
from vlora.data.prefetch import WorkerPool
from vlora.data.rows import RowDataset
from vlora.data.values import Row
from vlora.errors import SampleError
from vlora.recipe.schema import DataSection
from vlora.types import Example, RowMark, Sample

N_ROWS = 6
BAD = 2


def make_rows(name: str = "rows") -> RowDataset:
    """Make rows whose answers are their numbers."""
    table = [{"question": "a", "answer": str(number)} for number in range(N_ROWS)]
    return RowDataset(name=name, table=table, indices=list(range(N_ROWS)))


def encode(sample: Sample) -> tuple[Example]:
    """Make a row as long as its number, and 8 tokens; one of them is bad."""
    number = int(sample.turns[-1].text)
    if number == BAD:
        msg = f"{sample.source}: is bad"
        raise SampleError(msg)
    places = np.arange(number + 8, dtype=np.int32)
    return (Example(sample.source, places, places > 3, places < 0),)


def mark(index: int, row: Row, sample: Sample) -> RowMark:
    """Name a row by its answer."""
    del sample
    return RowMark(index=index, digest=str(row["answer"]))


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    """Work in threads, and without."""
    with WorkerPool(request.param) as pool:
        yield pool


def make_loader(workers: WorkerPool, rows: RowDataset, *, on_bad_row: Literal["skip", "raise"] = "skip") -> DataLoader:
    """Make a loader of batches of two rows."""
    return DataLoader(
        train=rows,
        data=DataSection(path="-", on_bad_row=on_bad_row),
        batch_size=2,
        workers=workers,
        encode=encode,
        mark=mark,
    )


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


def test_lengths_are_estimated_once(workers: WorkerPool) -> None:
    """A row's length is asked for again every epoch, and found once; one without a conversation has none."""
    table = [{"question": "a", "answer": str(number)} if number != 1 else {} for number in range(N_ROWS)]
    rows, asked = attrs.evolve(make_rows(), table=table), []

    def estimate(sample: Sample) -> int:
        asked.append(sample.source)
        return 10 + int(sample.turns[-1].text)

    measure = make_loader(workers, rows).measure(estimate)
    assert list(measure([0, 1, 3])) == list(measure([0, 1, 3])) == [10, 0, 13]
    assert sorted(asked) == ["rows row 0", "rows row 3"]


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
