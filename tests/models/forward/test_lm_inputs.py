"""Inputs of a language model by name."""

import mlx.core as mx
import pytest

from vlora.models.forward.lm_inputs import LOGIT_PLACES, leaves, partition_inputs, place_logits


def test_gradients_flow_through_what_the_tower_makes() -> None:
    """Embeddings and deepstack features; not positions and masks."""
    fields = {"position_ids": 1, "inputs_embeds": 2, "deepstack_visual_embeds": 3, "mask": 4}

    carrying, others = partition_inputs(fields)

    assert list(carrying) == ["inputs_embeds", "deepstack_visual_embeds"]
    assert list(others) == ["position_ids", "mask"]


def test_leaves_come_in_the_order_of_their_names() -> None:
    """However the tree was made."""
    one, two, three = map(mx.array, (1, 2, 3))

    assert [leaf.item() for leaf in leaves({"b": [two, three], "a": one})] == [1, 2, 3]
    assert [leaf.item() for leaf in leaves({"a": one, "b": [two, three]})] == [1, 2, 3]


@pytest.mark.parametrize("has_places", [False, True])
def test_logits_stand_where_the_model_puts_them(has_places: bool) -> None:
    """In a model that expands images itself rows are longer than the batch's, and say where their tokens stand."""
    fields = {"inputs_embeds": mx.zeros((2, 5, 4))}
    if has_places:
        fields[LOGIT_PLACES] = mx.array([[0, 3, 4], [0, 1, 2]])

    rest, places = place_logits(fields, mx.array([1, 2, 3, 5]), 3)

    assert list(rest) == ["inputs_embeds"]
    assert places.tolist() == ([3, 4, 5, 7] if has_places else [1, 2, 3, 5])
