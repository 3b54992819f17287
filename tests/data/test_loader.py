"""Rows read ahead: marked, batched, skipped and measured without a model."""

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.collate import make_stand_in
from vlora.data.loader import DataLoader, PackShare
from vlora.data.packing import PackedSteps, count_positions
from vlora.data.prefetch import WorkerPool
from vlora.data.rows import RowDataset
from vlora.data.values import Row
from vlora.errors import SampleError
from vlora.recipe.schema import DataSection
from vlora.types import Batch, Example, RowMark, Sample

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


@given(
    n_rows=st.integers(1, 30),
    n_ranks=st.integers(2, 4),
    batch_size=st.integers(1, 2),
    accumulation=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_ranks_share_packs(n_rows: int, n_ranks: int, batch_size: int, accumulation: int, seed: int) -> None:
    """Together they have the packs that one rank has with as many times the batch; each row is encoded by one of them.

    A bad row is told once, by the first rank.
    """
    table = [{"question": "a", "answer": str(number)} for number in range(n_rows)]
    rows = RowDataset(name="rows", table=table, indices=range(n_rows))
    encoded: Counter[str] = Counter()

    def counted(sample: Sample) -> tuple[Example]:
        encoded[sample.source] += 1
        return encode(sample)

    def steps_of(size: int, share: PackShare | None) -> list[list[list[list[str]]]]:
        packed = PackedSteps(
            n_rows=n_rows,
            capacity=40,
            batch_size=batch_size * n_ranks,
            accumulation=accumulation,
            seed=seed,
            shuffle=True,
            n_epochs=2,
        )
        with WorkerPool(0) as pool:
            loader = attrs.evolve(make_loader(pool, rows), batch_size=size, encode=counted)
            found = loader.pack(rows, packed, 1) if share is None else loader.pack_share(rows, packed, 1, share)
            steps = [[packs_of(batch) for batch in step] for step in found]
        told.append(len(loader.skipped))
        return steps

    told: list[int] = []
    whole = steps_of(batch_size * n_ranks, None)
    encoded.clear()
    shares = [
        steps_of(
            batch_size, PackShare(rank=rank, n_ranks=n_ranks, count=lambda sample: count_positions(encode(sample)))
        )
        for rank in range(n_ranks)
    ]

    for number, step in enumerate(whole):
        own = [pack for share in shares for packs in share[number] for pack in packs]
        assert sorted(own) == sorted(pack for packs in step for pack in packs)
        assert all(1 <= len(packs) <= batch_size for share in shares for packs in share[number])
    assert all(len(share) == len(whole) for share in shares)
    assert set(encoded.values()) <= {2}
    assert told == [told[0], told[0], *[0] * (n_ranks - 1)]


def packs_of(batch: Batch) -> list[list[str]]:
    """Name the rows of each pack."""
    packs: dict[int, list[str]] = {}
    for (row, _), example in zip(batch.segment_starts, batch.rows, strict=True):
        packs.setdefault(row, []).append(example.source)
    return list(packs.values())


def test_stand_ins_take_the_place_of_missing_batches(workers: WorkerPool) -> None:
    """Of those that have no row by plan, and of those whose rows are bad; a run does not begin with one."""
    rows = make_rows()
    loader = attrs.evolve(make_loader(workers, rows), stand_in=lambda: make_stand_in(1))
    plan = [[[BAD], []], [[0], []]]
    primed = loader.prime(loader.collate(rows, plan, 1), 2, is_new=True)

    assert [[batch.is_stand_in for batch in step] for step in primed] == [[True, True], [False, True]]
    with pytest.raises(SampleError, match="none of the first"):
        loader.prime(loader.collate(rows, plan[:1], 1), 1, is_new=True)
