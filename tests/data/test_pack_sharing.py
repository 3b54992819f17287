"""Packs that ranks share."""

import functools
from collections import Counter

import attrs
from hypothesis import given
from hypothesis import strategies as st

from tests.data.loading import encode, make_loader
from vlora.data.collate import make_stand_in
from vlora.data.pack_plan import count_positions
from vlora.data.pack_sharing import PackShare
from vlora.data.packing import REMEMBERED, PackedSteps
from vlora.data.prefetch import WorkerPool
from vlora.data.rows import RowDataset
from vlora.types import Batch, Example, Sample


@given(
    n_rows=st.integers(1, 30),
    n_ranks=st.integers(2, 4),
    batch_size=st.integers(1, 2),
    accumulation=st.integers(1, 2),
    seed=st.integers(0, 99),
    is_even=st.booleans(),
)
def test_ranks_share_packs(
    n_rows: int, n_ranks: int, batch_size: int, accumulation: int, seed: int, is_even: bool
) -> None:
    """Together they have the packs that one rank has with as many times the batch; each row is encoded by one of them.

    A bad row is told once, by the first rank. Where a rank without packs runs a stand-in, all have as many batches.
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
            stand_in = functools.partial(make_stand_in, 0) if is_even else None
            loader = attrs.evolve(make_loader(pool, rows), batch_size=size, encode=counted, stand_in=stand_in)
            found = list(loader.pack(rows, packed, 1) if share is None else share.pack(loader, rows, packed, 1))
            n_batches.append(list(map(len, found)))
            steps = [[packs_of(batch) for batch in step if not batch.is_stand_in] for step in found]
        told.append(len(loader.skipped))
        return steps

    told: list[int] = []
    n_batches: list[list[int]] = []
    whole = steps_of(batch_size * n_ranks, None)
    encoded.clear()
    shares = [
        steps_of(
            batch_size, PackShare(rank=rank, n_ranks=n_ranks, count=lambda index: count_positions(encode(rows[index])))
        )
        for rank in range(n_ranks)
    ]

    for number, step in enumerate(whole):
        own = [pack for share in shares for packs in share[number] for pack in packs]
        assert sorted(own) == sorted(pack for packs in step for pack in packs)
        assert all(1 <= len(packs) <= batch_size for share in shares for packs in share[number])
    assert all(len(share) == len(whole) for share in shares)
    assert set(encoded.values()) <= {2}
    assert not is_even or all(own == n_batches[1] for own in n_batches[1:])
    assert told == [told[0], told[0], *[0] * (n_ranks - 1)]


def packs_of(batch: Batch) -> list[list[str]]:
    """Name the rows of each pack."""
    packs: dict[int, list[str]] = {}
    for (row, _), example in zip(batch.segment_starts, batch.rows, strict=True):
        packs.setdefault(row, []).append(example.source)
    return list(packs.values())


def test_positions_are_those_of_steps_long_before_what_is_planned() -> None:
    """A rank of many plans far ahead of the step that it takes; the position of that step is still known."""
    rows = RowDataset(name="rows", table=[{"question": "a", "answer": "9"}] * 4000, indices=range(4000))

    def make() -> PackedSteps:
        return PackedSteps(
            n_rows=4000, capacity=20, batch_size=8, accumulation=1, seed=0, shuffle=True, n_steps=300, n_epochs=None
        )

    expected = make()
    plan = expected.plan(((index,) for index in expected.indices()), lambda _: 17)
    packed = make()
    with WorkerPool(2) as pool:
        loader = attrs.evolve(make_loader(pool, rows), batch_size=1)
        found = PackShare(rank=0, n_ranks=8, count=lambda _: 17).pack(loader, rows, packed, 16)
        for step in range(1, 20):
            next(plan)
            next(found)
            assert packed.progress_at(step) == expected.progress_at(step) != packed.start
        assert len(packed._progress) > REMEMBERED
    assert packed.progress_at(0) == packed.start
