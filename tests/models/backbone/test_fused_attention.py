"""Attention that leaves heads in one layout: found where it is what it seems, and with the model's own gradients."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.models.forward.test_joined import WHOLE, gradients
from tests.training import make_trainable
from vlora import collate
from vlora.models.backbone import fused
from vlora.models.backbone.fused import running_fused
from vlora.models.backbone.fused_attention import has_rotated_heads
from vlora.models.forward import joined
from vlora.models.forward.joined import JOINED
from vlora.ops import cpu_exp


@pytest.mark.parametrize("is_joined", [False, True])
@pytest.mark.parametrize(
    "overrides", [{}, WHOLE, {"train__grad_checkpoint": True}], ids=["lora", "whole", "recomputed"]
)
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def test_heads_that_keep_their_layout_have_the_models_gradients(
    family: str,
    overrides: dict[str, Any],
    is_joined: bool,
    checkpoint: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU: each layer's attention is replaced, of padded rows and of joined ones."""
    monkeypatch.setattr(joined, "MOST_PLACES", 0.99 if is_joined else 0.0)
    monkeypatch.setattr(cpu_exp, "has_slow_exponentials", lambda: False)
    plain = make_trainable(checkpoint(family), **overrides)
    batch = collate(plain.examples, len(plain.examples) + 2)
    loss, expected = gradients(plain, batch)
    monkeypatch.setattr(fused, "on_cuda", lambda: True)
    replaced = make_trainable(checkpoint(family), **overrides)
    parts = [layer.self_attn for layer in replaced.backbone.language_model.model.layers]
    own = {type(part) for part in parts}
    with running_fused(replaced.backbone.fused_modules):
        assert not own.intersection(type(part) for part in parts)
    assert (JOINED in replaced.backbone.embed(batch)[1]) is is_joined
    found_loss, found = gradients(replaced, batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    largest = max(np.abs(value).max() for value in expected.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4 * np.abs(value).max() + 1e-6 * largest, err_msg=name)


def test_attention_that_does_more_keeps_its_layout_to_itself(checkpoint: Callable[[str], Any]) -> None:
    """Attention with gates has other widths; what has the layers but another result is found by its result."""
    model = make_trainable(checkpoint("qwen3_vl"), **WHOLE).backbone.language_model
    gated = make_trainable(checkpoint("qwen3_5"), **WHOLE).backbone.language_model
    part = model.model.layers[0].self_attn
    attention = type(part)

    def bound(*given: Any) -> mx.array:
        return mx.tanh(attention.__call__(*given))

    bounded = type("Bounded", (attention,), {"__call__": bound, "__module__": attention.__module__})

    assert not any(has_rotated_heads(part) for part in gated.modules())
    assert has_rotated_heads(model.model.layers[0].self_attn)
    assert fused._keeps_layout(part)
    part.set_dtype(mx.bfloat16)
    assert fused._keeps_layout(part)
    part.o_proj.weight = 30 * part.o_proj.weight
    part.__class__ = bounded
    assert not fused._keeps_layout(part)
