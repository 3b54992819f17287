"""Rows' fields as one batch: what a row has that lacks a field, and padding."""

import mlx.core as mx
import numpy as np

from vlora.models.forward.collating import collate_inputs
from vlora.models.forward.lm_inputs import MASKED


def row(length: int, **fields: mx.array) -> dict[str, mx.array]:
    """Make a row of some tokens, with fields of its own."""
    return {"inputs_embeds": mx.zeros((1, length, 2)), **fields}


def test_a_row_without_positions_counts_its_places() -> None:
    """Text alone stands at 0, 1, 2 ... along every axis that images have, as its model would count."""
    image = mx.array([[[0, 0, 0, 1]], [[0, 0, 1, 1]], [[0, 1, 0, 1]]])
    stacked = collate_inputs([row(4, position_ids=image), row(3)], 2, 4)

    expected = mx.stack([image[:, 0], mx.broadcast_to(mx.array([0, 1, 2, 2]), (3, 4))], axis=1)
    assert mx.array_equal(stacked["position_ids"], expected)


def test_positions_along_one_axis_join_those_along_three() -> None:
    """A row whose model gives one axis of positions has the same along each of another's three."""
    image, text = mx.zeros((3, 1, 4), dtype=mx.int32), mx.array([[0, 1, 2]])

    for rows in ([row(4, position_ids=image), row(3, position_ids=text)], [row(3, position_ids=text)]):
        stacked = collate_inputs(rows, len(rows), 4)["position_ids"]
        assert stacked.reshape(-1, len(rows), 4)[:, -1].tolist() == [[0, 1, 2, 2]] * (3 if len(rows) > 1 else 1)


def test_a_row_without_a_mask_is_causal() -> None:
    """Beside a row with a mask of its own, one without sees no later place; added places disturb nobody."""
    whole = mx.ones((1, 1, 3, 3), dtype=mx.bool_)
    seen = collate_inputs([row(3, mask=whole), row(2)], 2, 3)["mask"]
    added = collate_inputs([row(3, mask=mx.where(whole, 0.0, MASKED)), row(2)], 2, 3)["mask"]

    assert seen[1, 0].tolist() == np.tril(np.ones((3, 3), dtype=bool)).tolist()
    assert (added[1, 0] == 0).tolist() == seen[1, 0].tolist()


def test_order_of_rows_is_not_order_of_fields() -> None:
    """A batch's fields come in one order: another would be another trace."""
    rows = [row(2, position_ids=mx.array([[0, 1]])), row(2, blocks=mx.array([[0, 1]]))]

    assert list(collate_inputs(rows, 2, 2)) == list(collate_inputs(rows[::-1], 2, 2))
