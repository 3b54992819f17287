"""Orders of epochs: each row once, fixed by seed and epoch."""

from hypothesis import given
from hypothesis import strategies as st

from vlora.data.epoch_order import draw_order, plain_order


@given(st.integers(1, 60), st.integers(0, 2**40), st.integers(0, 5), st.booleans())
def test_an_epoch_has_each_row_once(n_rows: int, seed: int, epoch: int, shuffle: bool) -> None:
    """Without shuffling rows keep their order; epochs may be asked for in any order, and again."""
    order = plain_order(n_rows, seed=seed, shuffle=shuffle)
    later, found = order(epoch + 1).tolist(), order(epoch).tolist()

    assert sorted(found) == list(range(n_rows))
    assert shuffle or found == list(range(n_rows))
    assert order(epoch + 1).tolist() == later
    assert found == draw_order(n_rows, seed=seed, epoch=epoch, shuffle=shuffle).tolist()


def test_seeds_and_epochs_differ() -> None:
    """Each epoch of each seed has an order of its own."""
    orders = {tuple(plain_order(50, seed=seed, shuffle=True)(epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))}

    assert len(orders) == 3
