"""Fused forwards for parts of mlx-vlm's models: fewer passes over memory, fewer arrays kept for the backward pass.

The results equal the model's own. That is checked part by part when a model is set up, and a part whose results differ
is not replaced. A replacement concerns one instance, and only while vlora runs it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models.base import scaled_dot_product_attention
from mlx_vlm.models.rope_utils import MRoPERotaryEmbedding

from ...adapters.names import GATED
from ...ops import cpu_exp
from ...ops.cpu_exp import sigmoid
from ...ops.cuda_kernels import on_cuda
from ...ops.functional import attend, rms_norm, swiglu
from ...ops.quantized import frozen_linear, is_unpacked, linear_shape, multiply_unpacked
from ..forward.attention_masks import CAUSAL, attend_fused
from ..forward.metal_kernels import without_metal_kernels
from ..forward.overrides import attending, override_attributes, override_call
from .fused_attention import Angles, attending_rotated, has_rotated_heads
from .outcomes import Outcomes
from .patch_tower import rotate_part

TOLERANCE = 0.02
"""Largest root mean square of the difference, relative to the spread of a part's outputs: with fewer passes bfloat16
rounds less often."""

GATE_SPREADS = (3.0, 40.0)
"""Standard deviations of a gate when it is checked: small for the activation's curvature, large for bounds."""


Replacement = Callable[[], AbstractContextManager[Any]]


@attrs.frozen(eq=False)
class FusedModules:
    """The parts of a language model that have a fused forward.

    Attributes:
        replacements: For each part a function that makes the context of its fused forward.
        angles: Angles that the rotating parts share; None if there are none.
    """

    replacements: Sequence[Replacement] = ()
    angles: Angles | None = None

    def expect(self, hidden: mx.Dtype) -> None:
        """Set the type of the hidden states, in which models compute their angles."""
        if self.angles is not None:
            self.angles.dtype = hidden


def find_fused_modules(
    module: nn.Module, *, is_verified: bool = True, outcomes: Outcomes | None = None, is_each_tried: bool = True
) -> FusedModules:
    """Find the parts of a language model that have a fused forward.

    Args:
        module: The language model, weights loaded.
        is_verified: Whether results are compared with those of the part; without weights they cannot be.
        outcomes: Results of earlier checks of this model; None for none.
        is_each_tried: Whether each part is tried by itself; otherwise those that differ in their weights alone share
            what one of them has shown, so that few weights are read.
    """
    outcomes = Outcomes() if outcomes is None else outcomes

    def holds(question: str, find: Callable[[], bool]) -> bool:
        return bool(outcomes.settle(question, find, is_valid=lambda answer: isinstance(answer, bool)))

    each = functools.partial(is_swiglu, is_verified=is_verified)
    is_gated = each if is_each_tried else _once_a_kind(each)
    found = [*_quantized(module), *_attention(module)]
    rotaries: list[MRoPERotaryEmbedding] = []
    for name, part in module.named_modules():
        if type(part) is nn.RMSNorm:
            found.append(_replacing(part, _norm(part)))
        elif has_gate(part):
            if holds(f"gated {name}", functools.partial(is_gated, part)):
                found.append(_replacing(part, _gated(part)))
        elif isinstance(part, MRoPERotaryEmbedding):
            # As on other devices, instead of mlx-vlm's Metal kernel.
            found += [functools.partial(override_attributes, part, fused_apply=False)] * bool(part.fused_apply)
            if holds(f"rotates {name}", functools.partial(_rotates_halves, part)):
                rotaries.append(part)
    if not rotaries:
        return FusedModules(found)
    # Layers with the same frequencies have the same angles.
    angles = Angles(rotaries[0])
    same = [rotary for rotary in rotaries if mx.array_equal(rotary.inv_freq, rotaries[0].inv_freq).item()]
    found += [_rotating(rotary, angles) for rotary in same]
    found += [
        _replacing(part, attending_rotated(part, angles))
        for part in _find_rotated(module, same, holds, is_verified=is_verified)
    ]
    return FusedModules(found, angles)


def _find_rotated(
    module: nn.Module,
    rotaries: Sequence[MRoPERotaryEmbedding],
    holds: Callable[[str, Callable[[], bool]], bool],
    *,
    is_verified: bool,
) -> list[nn.Module]:
    """Find attention that rotates heads with one of the given embeddings, and keeps their layout with the same result.

    Where there is no NVIDIA GPU, there is none: changes of layout take no time.
    """
    keeps_layout = _once_a_kind(_keeps_layout) if is_verified else has_rotated_heads
    numbers = {id(rotary) for rotary in rotaries}
    return [
        part
        for name, part in module.named_modules()
        if on_cuda() and has_rotated_heads(part) and id(part.rotary_emb) in numbers
        if holds(f"keeps the layout {name}", functools.partial(keeps_layout, part))
    ]


def _once_a_kind(ask: Callable[[nn.Module], bool]) -> Callable[[nn.Module], bool]:
    """Let parts that differ in nothing but the values of their weights share an answer."""
    answers: dict[str, bool] = {}

    def find(part: nn.Module) -> bool:
        kind = _describe_kind(part)
        if kind not in answers:
            answers[kind] = ask(part)
        return answers[kind]

    return find


def _describe_kind(part: nn.Module) -> str:
    """Describe all of a part but the values of its weights."""
    inside = {
        name: f"{value.shape} {value.dtype}"
        if isinstance(value, mx.array)
        else _describe_kind(value)
        if isinstance(value, nn.Module)
        else repr(value)
        for name, value in {**vars(part), **part}.items()
    }
    return f"{type(part)} {sorted(inside.items())}"


@contextmanager
def running_fused(parts: FusedModules) -> Iterator[None]:
    """Run the fused forward of the found parts while the `with` lasts."""
    with ExitStack() as stack:
        for replacement in parts.replacements:
            stack.enter_context(replacement())
        yield


def _replacing(part: nn.Module, function: Callable[..., Any]) -> Replacement:
    return lambda: override_call(part, function)


def _quantized(module: nn.Module) -> list[Replacement]:
    return [
        _multiplying(parent, name, child)
        for parent in module.modules()
        for name, child in parent.children().items()
        if isinstance(child, nn.Module) and type(child) in {nn.QuantizedLinear, nn.QuantizedEmbedding}
    ]


def _attention(module: nn.Module) -> list[Replacement]:
    if cpu_exp.has_slow_exponentials():
        return [functools.partial(attending, module, _attend_or_else)]
    return [functools.partial(attending, module, attend_fused)] if on_cuda() else []


def _multiplying(parent: nn.Module, name: str, layer: nn.Module) -> Replacement:
    cls = type(layer)
    own: Callable[[nn.Module, mx.array], mx.array] = cls.as_linear if cls is nn.QuantizedEmbedding else cls.__call__

    def run(x: mx.array) -> mx.array:
        if not is_unpacked(layer, x):
            return own(layer, x)
        return frozen_linear(layer, x) if cls is nn.QuantizedLinear else multiply_unpacked(layer, x)

    def context() -> AbstractContextManager[Any]:
        if parent.get(name) is not layer or type(layer) is not cls:
            # Replaced by an adapter, which unpacks it itself, or no longer quantized.
            return nullcontext()
        return override_call(layer, run) if cls is nn.QuantizedLinear else override_attributes(layer, as_linear=run)

    return context


def _norm(norm: nn.RMSNorm) -> Callable[[mx.array], mx.array]:
    def run(x: mx.array) -> mx.array:
        is_frozen = "weight" in norm._no_grad  # noqa: SLF001 - MLX has no other way to ask
        return rms_norm(x, norm.weight, norm.eps) if is_frozen else mx.fast.rms_norm(x, norm.weight, norm.eps)

    return run


def _gated(mlp: nn.Module) -> Callable[[mx.array], mx.array]:
    def run(x: mx.array) -> mx.array:
        if not is_gate_recomputed():
            gate, up = mlp.gate_proj(x), mlp.up_proj(x)
            hidden: mx.array = mlp.down_proj(gate * sigmoid(gate) * up)
            return hidden
        # Rows once for all layers, which compute with nothing else.
        rows = x.reshape(-1, x.shape[-1])
        hidden = mlp.down_proj(swiglu(mlp.gate_proj(rows), mlp.up_proj(rows)))
        return hidden.reshape(*x.shape[:-1], hidden.shape[-1])

    return run


def is_on_cpu() -> bool:
    """Whether MLX computes on a CPU."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def is_gate_recomputed() -> bool:
    """Whether the backward pass recomputes a gate's exponentials; on a CPU that takes longer than reading them."""
    return not is_on_cpu()


def has_gate(mlp: nn.Module) -> bool:
    """Whether a part has the layers of an MLP `down(silu(gate(x)) * up(x))`."""
    return tuple(sorted(mlp.children())) == GATED and all(
        isinstance(mlp[name], (nn.Linear, nn.QuantizedLinear)) for name in GATED
    )


def is_swiglu(mlp: nn.Module, *, is_verified: bool) -> bool:
    """Whether a part is an MLP `down(silu(gate(x)) * up(x))`."""
    if not has_gate(mlp):
        return False
    width = linear_shape(mlp.gate_proj)[1]
    dtype = _linear_type(mlp.gate_proj)
    x = mx.random.normal((2, width), key=mx.random.key(0)).astype(dtype)
    for spread in GATE_SPREADS:
        scaled = (x * (spread / mx.maximum(mlp.gate_proj(x).astype(mx.float32).std(), 1e-6))).astype(dtype)
        try:
            own = mlp(scaled)
        except (TypeError, ValueError):
            return False
        if is_verified and not _agree(own, _gated(mlp)(scaled)):
            return False
    return True


def _linear_type(linear: nn.Module) -> mx.Dtype:
    """Give the type that a layer computes in."""
    dtype: mx.Dtype = linear.get("scales", linear.weight).dtype
    # The scales of mxfp4 and nvfp4 are packed.
    return dtype if mx.issubdtype(dtype, mx.floating) else mx.bfloat16


def _rotation(angles: Angles) -> Callable[..., tuple[mx.array, mx.array]]:
    def apply(q: mx.array, k: mx.array, positions: mx.array, **_: Any) -> tuple[mx.array, mx.array]:
        cosines, sines = angles(k, positions)
        # In the layout of the projections and of attention's result, so that nothing is copied.
        rotated = [rotate_part(x.transpose(0, 2, 1, 3), cosines, sines).transpose(0, 2, 1, 3) for x in (q, k)]
        return rotated[0], rotated[1]

    return apply


def _rotating(rotary: MRoPERotaryEmbedding, angles: Angles) -> Replacement:
    @contextmanager
    def context() -> Iterator[None]:
        # In "fused" mode every layer gets the positions instead of the angles.
        with override_attributes(rotary, fused_apply=True, apply_rotary=_rotation(angles)):
            try:
                yield
            finally:
                angles.forget()

    return context


def _rotates_halves(rotary: MRoPERotaryEmbedding) -> bool:
    """Whether a rotary embedding rotates whole heads, first half against second."""
    q, k = (mx.random.normal((1, 2, 5, rotary.dim), key=mx.random.key(number)) for number in range(2))
    positions = mx.array([[[0, 1, 2, 3, 4]], [[0, 1, 1, 2, 4]], [[0, 1, 2, 2, 4]]])
    try:
        with without_metal_kernels(rotary), override_attributes(rotary, fused_apply=False):
            own = rotary.apply_rotary(q, k, positions, unsqueeze_dim=1)
        found = _rotation(Angles(rotary))(q, k, positions)
    except (TypeError, ValueError):
        return False
    return all(_agree(one, other) for one, other in zip(own, found, strict=True))


def _keeps_layout(part: nn.Module) -> bool:
    """Whether attention that rotates heads gives the same without the model's changes of layout."""
    x = mx.random.normal((1, 5, linear_shape(part.q_proj)[1]), key=mx.random.key(0)).astype(_linear_type(part.q_proj))
    positions = mx.array([[[0, 1, 2, 3, 4]], [[0, 1, 1, 2, 4]], [[0, 1, 2, 2, 4]]])
    try:
        with without_metal_kernels(part.rotary_emb), override_attributes(part.rotary_emb, fused_apply=False):
            own = part(x, CAUSAL, None, positions)
        found = attending_rotated(part, Angles(part.rotary_emb))(x, CAUSAL, None, positions)
    except (TypeError, ValueError):
        return False
    return _agree(own, found)


def _attend_or_else(
    queries: mx.array, keys: mx.array, values: mx.array, cache: Any, scale: float, mask: Any = None, sinks: Any = None
) -> mx.array:
    # What is added to scores may have a gradient.
    is_simple = mask.dtype == mx.bool_ if isinstance(mask, mx.array) else mask in (None, "causal")
    is_float32 = {queries.dtype, keys.dtype, values.dtype} == {mx.float32}
    if cpu_exp.has_slow_exponentials() and is_simple and is_float32 and cache is None and sinks is None:
        return attend(queries, keys, values, scale, mask)
    own: mx.array = scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks)
    return own


def _agree(one: mx.array, other: mx.array) -> bool:
    one, other = one.astype(mx.float32), other.astype(mx.float32)
    return bool(mx.sqrt(mx.square(one - other).mean()) <= TOLERANCE * mx.maximum(one.std(), 1e-6))
