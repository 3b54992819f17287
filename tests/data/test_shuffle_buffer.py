"""The shuffle buffer: each row once, an order that (seed, epoch, position) fixes, exact restarts at any position."""

from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from vlora.data.shuffle_buffer import BLOCK, ShuffleBuffer

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**70)


def shuffle_rows(rows: Iterable[int], size: int, *, seed: int, epoch: int) -> Iterator[int]:
    """Yield the rows of an epoch."""
    buffer = ShuffleBuffer(source=iter(rows), size=size, seed=seed, epoch=epoch)
    while buffer.fill():
        yield buffer.take()


@given(n_rows=st.integers(0, 60), size=SIZES, seed=SEEDS, epoch=st.integers(0, 1000))
def test_every_row_comes_once_and_the_order_is_fixed(n_rows: int, size: int, seed: int, epoch: int) -> None:
    """Whatever the buffer's size, 1 and larger than the data included; and no row comes before it may."""
    order = list(shuffle_rows(range(n_rows), size, seed=seed, epoch=epoch))

    assert sorted(order) == list(range(n_rows))
    assert order == list(shuffle_rows(range(n_rows), size, seed=seed, epoch=epoch))
    assert all(row < place + size for place, row in enumerate(order))


@given(n_rows=st.integers(0, 60), size=SIZES, seed=SEEDS, cut=st.integers(0, 60))
def test_a_buffer_goes_on_at_any_position(n_rows: int, size: int, seed: int, cut: int) -> None:
    """With the rows that waited and the source behind the row that was read last the order is the same."""
    expected = list(shuffle_rows(range(n_rows), size, seed=seed, epoch=3))
    before = ShuffleBuffer(source=iter(range(n_rows)), size=size, seed=seed, epoch=3)
    found: list[int] = []
    while len(found) < cut and before.fill():
        found.append(before.take())
    before.fill()
    rest = range(0 if before.last is None else before.last + 1, n_rows)
    waiting, position = list(before.waiting), before.position
    after = ShuffleBuffer(source=iter(rest), size=size, seed=seed, epoch=3, position=position, waiting=waiting)
    while after.fill():
        found.append(after.take())

    assert found == expected


def test_a_buffer_of_one_row_keeps_the_order_and_larger_ones_do_not() -> None:
    """Seeds and epochs give different orders; numbers are drawn anew behind each block of positions."""
    rows = range(BLOCK + 100)
    orders = [list(shuffle_rows(rows, 50, seed=seed, epoch=epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]

    assert list(shuffle_rows(rows, 1, seed=0, epoch=0)) == list(rows)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0][BLOCK:] != sorted(orders[0][BLOCK:])


def test_a_large_buffer_draws_evenly() -> None:
    """With a buffer as large as the data, every row comes first about as often as every other."""
    counts = [0] * 8
    for epoch in range(800):
        counts[next(shuffle_rows(range(8), 8, seed=0, epoch=epoch))] += 1

    assert min(counts) > 60
    assert max(counts) < 145
