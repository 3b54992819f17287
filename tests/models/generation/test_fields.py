"""The language model's inputs of some places."""

from typing import Any

import mlx.core as mx
import numpy as np

from vlora.models.families.registry import FAMILIES
from vlora.models.forward.lm_inputs import LOGIT_PLACES
from vlora.models.generation.fields import cut_fields, pick_fields

B, T, D = 2, 5, 3
FIELDS: dict[str, Any] = {
    "inputs_embeds": mx.arange(B * T * D).reshape(B, T, D),
    "position_ids": mx.arange(3 * B * T).reshape(3, B, T),
    "mask": mx.arange(B * T * T).reshape(B, 1, T, T),
    "deepstack_visual_embeds": [mx.ones((B, T, D))] * 2,
    "encoder_embeds": mx.ones((B, 7, D)),
    "cross_attention_states": mx.ones((B, 4, D)),
    "cross_attention_mask": mx.ones((B, 1, T, 4)),
    LOGIT_PLACES: mx.arange(B * 4).reshape(B, 4),
}
LAYOUTS = {name: spec for family in ("mllama", "florence2") for name, spec in FAMILIES[family].forward.layouts.items()}
"""Those of all families, and of two that have inputs of their own."""


def test_places_are_cut_along_tokens_only() -> None:
    """Positions, masks and features lose what is behind; an encoder's prompt and images' states stay."""
    found = cut_fields(FIELDS, LAYOUTS, 3, 2)
    shapes = {name: value.shape for name, value in found.items() if isinstance(value, mx.array)}

    assert shapes == {
        "inputs_embeds": (B, 3, D),
        "position_ids": (3, B, 3),
        "mask": (B, 1, 3, 3),
        "encoder_embeds": (B, 7, D),
        "cross_attention_states": (B, 4, D),
        "cross_attention_mask": (B, 1, 3, 4),
        LOGIT_PLACES: (B, 2),
    }
    assert [layer.shape for layer in found["deepstack_visual_embeds"]] == [(B, 3, D)] * 2


def test_each_row_has_its_own_place() -> None:
    """One place is taken of each row, what images alone have is left out, and a mask ends where keys do."""
    found = pick_fields(FIELDS, LAYOUTS, mx.array([1, 3]), seen=4)

    assert set(found) == set(FIELDS) - {"deepstack_visual_embeds", LOGIT_PLACES}
    assert mx.array_equal(
        found["inputs_embeds"], mx.stack([FIELDS["inputs_embeds"][0, 1:2], FIELDS["inputs_embeds"][1, 3:4]])
    )
    assert np.array(found["position_ids"])[:, :, 0].tolist() == [[1, 8], [11, 18], [21, 28]]
    assert np.array(found["mask"])[:, 0, 0].tolist() == [[5, 6, 7, 8], [40, 41, 42, 43]]
    assert found["cross_attention_mask"].shape == (B, 1, 1, 4)
    assert found["encoder_embeds"] is FIELDS["encoder_embeds"]
