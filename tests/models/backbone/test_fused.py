"""Parts of models that run leaner: found where they are what they seem, and with the model's own numbers."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_vlm.models.llava import language as llava_language
from mlx_vlm.models.mlp import SwiGLUMLP

from tests.training import make_trainable
from vlora import collate
from vlora.models.backbone import fused
from vlora.models.backbone.fused import FusedModules, find_fused_modules, is_swiglu, running_fused
from vlora.models.forward import attention_masks, overrides
from vlora.ops import cpu_exp
from vlora.train.eval_step import make_eval_step

WIDTH = 64


class Clipped(SwiGLUMLP):
    """What looks like a SwiGLU, but bounds its gate."""

    def __call__(self, x: mx.array) -> mx.array:
        """Run it."""
        gate = mx.minimum(nn.silu(self.gate_proj(x)), 7.0)
        return self.down_proj(gate * self.up_proj(x))


class Gelu(SwiGLUMLP):
    """The same with another activation."""

    def __call__(self, x: mx.array) -> mx.array:
        """Run it."""
        return self.down_proj(nn.gelu(self.gate_proj(x)) * self.up_proj(x))


class Holder(nn.Module):
    """A model of one part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        mx.eval(self.parameters())

    def __call__(self, x: mx.array) -> mx.array:
        """Run it."""
        return self.part(x)


@pytest.mark.parametrize(("kind", "found"), [(SwiGLUMLP, True), (Clipped, False), (Gelu, False)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_only_what_is_a_swiglu_is_taken_for_one(kind: type[SwiGLUMLP], found: bool, dtype: mx.Dtype) -> None:
    """Names alone do not make an MLP a SwiGLU."""
    model = Holder(kind(WIDTH, 3 * WIDTH))
    model.set_dtype(dtype)
    assert is_swiglu(model.part, is_verified=True) == found


def test_parts_that_are_alike_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another width, type or activation are tried by themselves."""
    asked: list[nn.Module] = []

    def ask(part: nn.Module, *, is_verified: bool) -> bool:
        asked.append(part)
        return is_swiglu(part, is_verified=is_verified)

    monkeypatch.setattr(fused, "is_swiglu", ask)
    parts = [SwiGLUMLP(WIDTH, 96), SwiGLUMLP(WIDTH, 96), SwiGLUMLP(WIDTH, 64), Gelu(WIDTH, 96)]
    model = nn.Sequential(*parts)
    found = find_fused_modules(model, is_each_tried=False)

    assert len(asked) == 3
    assert len(find_fused_modules(model).replacements) == len(found.replacements)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_trained_norm_keeps_its_gradient(frozen: bool) -> None:
    """Only a frozen norm runs without the gradient of its weight."""
    model = Holder(nn.RMSNorm(WIDTH))
    if frozen:
        model.freeze()
    parts = find_fused_modules(model)
    x = mx.random.normal((3, WIDTH))

    def loss(weight: mx.array) -> mx.array:
        model.part.weight = weight
        with running_fused(parts):
            return (model(x) ** 2).sum()

    gradient = mx.grad(loss)(mx.ones(WIDTH))

    assert bool(mx.any(gradient != 0)) is not frozen


@pytest.mark.parametrize("n_rows", [5, 200])
@pytest.mark.parametrize("part", ["linear", "embedding"])
def test_quantized_layers_without_an_adapter_give_the_same(n_rows: int, part: str) -> None:
    """Few rows or many, unpacked or not; what an adapter has taken the place of is left to it."""
    plain = nn.Linear(WIDTH, 48) if part == "linear" else nn.Embedding(48, WIDTH)
    layer = plain.to_quantized(group_size=32, bits=4)
    model = Holder(layer)
    run: Callable[[mx.array], mx.array] = layer if part == "linear" else layer.as_linear
    x = mx.random.normal((n_rows, WIDTH))
    expected = run(x)
    parts = find_fused_modules(model)
    with running_fused(parts):
        found = layer(x) if part == "linear" else layer.as_linear(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    model.part = nn.Linear(WIDTH, 48)
    with running_fused(parts):
        assert type(layer) in {nn.QuantizedLinear, nn.QuantizedEmbedding}


def test_attention_of_a_quantized_model_is_replaced_in_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of vlora's is: replaced layers of its classes led to its file, which was the first in some processes."""
    monkeypatch.setattr(cpu_exp, "has_slow_exponentials", lambda: True)
    model = type("Layer", (Holder,), {"__module__": llava_language.__name__})(nn.QuantizedLinear(WIDTH, 48))
    own = llava_language.scaled_dot_product_attention
    with running_fused(find_fused_modules(model)):
        assert type(model.part) is not nn.QuantizedLinear
        assert llava_language.scaled_dot_product_attention is not own
        assert {file.scaled_dot_product_attention for file in (overrides, attention_masks, fused)} == {own}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "llava"])
def test_the_loss_is_the_models_own(
    family: str, checkpoint: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all lean parts, those of a GPU too, and with none: batched towers, rotations, gates and norms."""
    monkeypatch.setattr(fused, "is_gate_recomputed", lambda: True)
    trainable = make_trainable(checkpoint(family))
    batch = collate([*trainable.examples, *trainable.examples])
    state, backbone = trainable.state, trainable.backbone
    assert len(backbone.fused_modules.replacements) > 1

    leaner = make_eval_step(backbone)(state, batch)[0]
    backbone.fused_modules = FusedModules()
    own = make_eval_step(backbone)(state, batch)[0]

    assert float(leaner) == pytest.approx(float(own), rel=1e-5)


def test_attention_is_put_back(checkpoint: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where exponentials are slow a model's files hold another attention, for as long as it runs."""
    monkeypatch.setattr(cpu_exp, "has_slow_exponentials", lambda: True)
    own = llava_language.scaled_dot_product_attention
    parts = find_fused_modules(make_trainable(checkpoint("llava")).backbone.language_model)

    with running_fused(parts):
        assert llava_language.scaled_dot_product_attention is not own
    assert llava_language.scaled_dot_product_attention is own
