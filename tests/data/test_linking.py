"""Rows that know the others of their microbatch, on whichever rank they are."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from tests.data.loading import BAD, make_loader, make_rows
from vlora.data.linking import N_DRAWN, LinkedRow, LinkingLoader, StepRows, draw_link, link_alone, link_rows
from vlora.data.loader import DataLoader
from vlora.data.prefetch import WorkerPool
from vlora.data.sampler import share_steps
from vlora.types import Example


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 4))
def test_shared_rows_know_those_before_them(rows: list[int], n_ranks: int) -> None:
    """Each the other places of its microbatch once, the nearest one before it first, in a circle; repeated rows too."""
    found = [
        (row.index, row.before)
        for rank in range(n_ranks)
        for step in share_steps(link_rows([[rows]]), rank, n_ranks, len(rows))
        for batch in step
        for row in batch
        if isinstance(row, LinkedRow)
    ]

    expected = []
    for place, row in enumerate(rows):
        expected.append((row, tuple(rows[place - distance] for distance in range(1, len(rows)))))
    assert sorted(found) == sorted(expected)


@given(st.integers(1, 40), st.integers(0, 9))
def test_drawn_others(n_rows: int, seed: int) -> None:
    """None is the row itself or comes twice, every row is another one's first, and a seed gives the same ones."""
    found = [draw_link(row, n_rows, seed) for row in range(n_rows)]

    assert all(len({link.index, *link.before}) == 1 + min(N_DRAWN, n_rows - 1) for link in found)
    assert n_rows == 1 or sorted(link.before[0] for link in found) == list(range(n_rows))
    assert all(0 <= other < n_rows for link in found for other in link.before)
    assert found == [draw_link(row, n_rows, seed) for row in range(n_rows)]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=4), st.booleans())
def test_rows_that_are_alone_know_drawn_ones(batches: list[list[int]], is_shared: bool) -> None:
    """The same ones whether ranks share rows or not; others stay as they are."""
    step: StepRows = [[*batch] for batch in (next(link_rows([batches])) if is_shared else batches)]
    (found,) = link_alone([step], lambda row: draw_link(row, 10, 1))

    for before, after in zip(step, found, strict=True):
        if len(before) > 1:
            assert after == before
        else:
            assert after == [draw_link(int(before[0].__index__()), 10, 1)]


def test_shared_rows_are_joined_to_the_one_before_them() -> None:
    """To the nearest that can be learned from, whichever rank has it; what is wrong with others is not told here."""
    rows = make_rows()

    def link(row: tuple[Example, ...], other: tuple[Example, ...]) -> tuple[Example, ...]:
        return (*row, *(attrs.evolve(example, source=f"{row[0].source} after {example.source}") for example in other))

    made = make_loader(WorkerPool(0), rows)
    given = {field.name: getattr(made, field.name) for field in attrs.fields(DataLoader) if field.init}
    loader = LinkingLoader(**given, link=link)
    shared = [list(share_steps(link_rows([[[1, BAD, 3, 0], [BAD, 4]]]), rank, 2, 2)) for rank in range(2)]
    found = [
        [[row.source for row in batch.rows] for step in loader.collate(rows, own, 2) for batch in step]
        for own in shared
    ]

    assert sorted(name.replace("rows row ", "") for own in found for batch in own for name in batch) == [
        *("0", "0 after 3", "1", "1 after 0", "3", "3 after 1", "4"),
    ]
    assert loader.drain_skipped() == [f"rows row {BAD}: is bad"] * 2


def test_rows_of_packs_are_joined_to_drawn_ones() -> None:
    """To the same one whenever they are read, and past those that cannot be learned from."""
    rows, joined = make_rows(), []

    def link(row: tuple[Example, ...], other: tuple[Example, ...]) -> tuple[Example, ...]:
        joined.append((row[0].source, other[0].source))
        return row

    made = make_loader(WorkerPool(0), rows)
    given = {field.name: getattr(made, field.name) for field in attrs.fields(DataLoader) if field.init}
    loader = LinkingLoader(**given, link=link, seed=3)
    assert [found is None for found in loader.read(rows, range(len(rows)), 1)] == [
        row == BAD for row in range(len(rows))
    ]
    first, joined[:] = list(joined), []
    list(loader.read(rows, reversed(range(len(rows))), 1))

    assert joined == first[::-1]
    for source, other in first:
        index = int(source.rpartition(" ")[2])
        others = [row for row in draw_link(index, len(rows), 3).before if row != BAD]
        assert other == f"rows row {others[0]}"
