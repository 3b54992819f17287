"""Mllama's cross-attention: nothing is added to rows of text, and rows with other numbers of states go together."""

from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np

from tests.families.tiny import noise
from vlora.models.families.mllama import no_cross_attention, stack_states
from vlora.models.forward.lm_inputs import MASKED


def row(n_tokens: int, n_states: int, seed: int) -> dict[str, mx.array]:
    """Make a row's states and masks."""
    return {
        "cross_attention_states": mx.array(noise(np.random.default_rng(seed), 1, n_states, 4)),
        "cross_attention_mask": mx.zeros((1, 1, n_tokens, n_states)),
        "full_text_row_masked_out_mask": mx.ones((1, 1, n_tokens, 1), mx.bool_),
    }


def test_rows_of_text_have_a_state_of_zeros() -> None:
    """It is masked out for every token; a row with an image keeps what it has."""
    model = cast("Any", SimpleNamespace(config=SimpleNamespace(text_config=SimpleNamespace(hidden_size=4))))
    fields = {"inputs_embeds": mx.ones((1, 3, 4), mx.bfloat16)}
    found = no_cross_attention(model, mx.array([[1, 2, 3]]), {}, fields)

    assert found["cross_attention_states"].shape == (1, 1, 4)
    assert found["cross_attention_states"].dtype == mx.bfloat16
    assert not found["cross_attention_states"].any()
    assert not found["full_text_row_masked_out_mask"].any()
    assert no_cross_attention(model, mx.array([[1]]), {"pixel_values": 1}, fields) is fields


def test_states_that_are_added_are_not_seen() -> None:
    """Rows are padded to the length and to the most states; their own states and masks stay as they are."""
    rows = [row(3, 2, 0), row(2, 5, 1)]
    found = stack_states(rows, 4)

    assert found["cross_attention_states"].shape == (2, 5, 4)
    assert found["cross_attention_mask"].shape == (2, 1, 4, 5)
    assert found["full_text_row_masked_out_mask"].shape == (2, 1, 4, 1)
    for number, own in enumerate(rows):
        n_tokens, n_states = own["cross_attention_mask"].shape[2:]
        assert mx.array_equal(found["cross_attention_states"][number, :n_states], own["cross_attention_states"][0])
        assert not found["cross_attention_mask"][number, 0, :n_tokens, :n_states].any()
        assert (found["cross_attention_mask"][number, 0, :, n_states:] == MASKED).all()
