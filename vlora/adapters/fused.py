"""Products with updates of low rank: those of several projections of one input together. Knows no layer's class."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import attrs
import mlx.core as mx
import mlx.nn as nn

from ..ops.custom_vjp import custom_vjp
from ..ops.quantized import add_product, dequantized_weight


class LowRankUpdate(NamedTuple):
    """A frozen layer and the update of its product: `linear(x) + scale x A B`.

    Attributes:
        linear: `nn.Linear` or `nn.QuantizedLinear`.
        scale: What the product of the factors is multiplied with.
        lora_a: f[inputs, R], in the type of the input.
        lora_b: f[R, outputs], likewise.
    """

    linear: nn.Module
    scale: float
    lora_a: mx.array
    lora_b: mx.array


def multiply_low_rank(x: mx.array, lora_a: mx.array, lora_b: mx.array) -> mx.array:
    """Compute `x A B`: f[..., inputs], f[inputs, R], f[R, outputs] -> f[..., outputs].

    In the backward pass the factors' gradients are computed before anything goes on from the input's, as in
    `fused_lora_matmul`.
    """

    @custom_vjp(keeps="inputs", ordered=True)
    def product(x: mx.array, lora_a: mx.array, lora_b: mx.array) -> mx.array:
        return (x @ lora_a) @ lora_b

    @product.vjp
    def product_vjp(
        primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        x, lora_a, lora_b = primals
        inner = cotangent @ lora_b.T
        flat = x.reshape(-1, x.shape[-1])
        of_a = flat.T @ inner.reshape(-1, inner.shape[-1])
        of_b = (flat @ lora_a).T @ cotangent.reshape(-1, cotangent.shape[-1])
        return inner @ lora_a.T, of_a, of_b

    return cast("mx.array", product(x, lora_a, lora_b))


def fused_lora_matmul(
    updates: Sequence[LowRankUpdate], x: mx.array, *, dropped: mx.array | None = None, with_bias: bool = True
) -> list[mx.array]:
    """Apply layers with their updates to one input.

    One product with the A of all of them, and sums that are begun by the small product and gone on with by the large
    one, so that activations are read and written as rarely as can be. What lies between A and B has a row for each of
    the rank: of that a layer's own part is whole, where MLX would copy columns before it multiplies them. Every
    operation costs time on the host too, so that the scales are left to the matrix products.

    In the backward pass the factors' gradients are computed before anything goes on from the input's: otherwise an
    evaluation that follows the chain of activations down to the first layer would keep every layer's gradients alive
    until it came back for the factors.

    Args:
        updates: Of layers with the same number of inputs.
        x: f[..., inputs].
        dropped: What the updates get in its place, likewise.
        with_bias: Whether the layers' biases are added.

    Returns:
        f[..., outputs] of each layer, in the type of `x`.
    """
    together = _Together.of(updates, with_bias=with_bias)
    # Not with -1: MLX would reshape what are rows already.
    rows = (math.prod(x.shape[:-1]), x.shape[-1])
    inputs = [value.reshape(rows) for value in ((x,) if dropped is None else (x, dropped))]
    n_inputs = len(inputs)

    @custom_vjp(keeps="results", ordered=True)
    def products(*arrays: mx.array) -> tuple[mx.array, ...]:
        return together.products(arrays[:n_inputs], arrays[n_inputs:])

    @products.vjp
    def products_vjp(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        return together.gradients(primals[:n_inputs], primals[n_inputs:], cotangents[1:], outputs[0])

    factors = itertools.chain(*((update.lora_a, update.lora_b) for update in updates))
    outputs = cast("tuple[mx.array, ...]", products(*inputs, *factors))
    return [y.reshape(*x.shape[:-1], y.shape[-1]) for y in outputs[1:]]


@attrs.frozen(eq=False)
class _Together:
    """What updates of one input are multiplied by.

    `inputs` are that of the frozen layers and, where it is another, that of the updates; `factors` are the A and B of
    each update, one behind the other.

    Attributes:
        linears: The frozen layers.
        scales: Those of the updates.
        starts: Where the rank of each update but the first begins among those of all.
        with_bias: Whether the layers' biases are added.
    """

    linears: Sequence[nn.Module]
    scales: Sequence[float]
    starts: Sequence[int]
    with_bias: bool

    @classmethod
    def of(cls, updates: Sequence[LowRankUpdate], *, with_bias: bool) -> "_Together":
        ends = list(itertools.accumulate(update.lora_a.shape[1] for update in updates))
        return cls([update.linear for update in updates], [update.scale for update in updates], ends[:-1], with_bias)

    def apart(self, value: mx.array, axis: int) -> list[mx.array]:
        """Take what has the rank of all updates along an axis apart."""
        return list(mx.split(value, self.starts, axis=axis)) if self.starts else [value]

    def products(self, inputs: Sequence[mx.array], factors: Sequence[mx.array]) -> tuple[mx.array, ...]:
        """Compute the products with A, f[sum of R, rows], and each layer's output."""
        x = inputs[0]
        within = joined(factors[::2], 1).T @ inputs[-1].T
        outputs = []
        parts = self.apart(within.T, 1)
        for linear, scale, part, b in zip(self.linears, self.scales, parts, factors[1::2], strict=True):
            if self.with_bias and "bias" in linear:
                outputs.append(add_product(mx.addmm(linear.bias, part, b, alpha=scale), linear, x))
            else:
                outputs.append(add_product(part @ b, linear, x, times=scale))
        return (within, *outputs)

    def gradients(
        self, inputs: Sequence[mx.array], factors: Sequence[mx.array], towards: Sequence[mx.array], within: mx.array
    ) -> tuple[mx.array, ...]:
        """Carry the outputs' gradients back: to the inputs, and to each of the factors."""
        a = joined(factors[::2], 1)
        inner = [d @ b.T for d, b in zip(towards, factors[1::2], strict=True)]
        # A product of what is joined takes one scale; where there are several, they are multiplied with before.
        scale = self.scales[0] if len(set(self.scales)) == 1 else 1.0
        inner = [value if own == scale else own * value for value, own in zip(inner, self.scales, strict=True)]
        together = joined(inner, 1)
        of_a = self.apart(scaled_product(scale, inputs[-1].T, together, like=a), 1)
        parts = zip(self.scales, self.apart(within, 0), towards, factors[1::2], strict=True)
        of_b = [scaled_product(own, part, d, like=b) for own, part, d, b in parts]
        of_inputs = self.of_inputs(inputs, towards, (together, a.T), scale)
        # Where a layer is of another type than its input, so is what flows back.
        found = [*of_inputs, *itertools.chain(*zip(of_a, of_b, strict=True))]
        return tuple(value.astype(given.dtype) for value, given in zip(found, [*inputs, *factors], strict=True))

    def of_inputs(
        self, inputs: Sequence[mx.array], towards: Sequence[mx.array], pair: tuple[mx.array, mx.array], scale: float
    ) -> list[mx.array]:
        """Carry the outputs' gradients back to the inputs; the scaled product of the pair is that of the updates'."""
        weights = (
            dequantized_weight(linear, after=d, dtype=d.dtype) for d, linear in zip(towards, self.linears, strict=True)
        )
        (d, weight), *others = zip(towards, weights, strict=True)
        # In one sum the product with the weights scales what it is added to.
        of_x = mx.addmm(pair[0] @ pair[1], d, weight, beta=scale) if len(inputs) == 1 else d @ weight
        for d, weight in others:
            of_x = mx.addmm(of_x, d, weight)
        return [of_x, *(scaled_product(scale, *pair, like=dropped) for dropped in inputs[1:])]


def scaled_product(scale: float, a: mx.array, b: mx.array, *, like: mx.array) -> mx.array:
    """Compute `scale x a b` in one kernel; `like` is any array of the result's shape and has no part in it."""
    # `addmm` is the only product that takes a scale; none of what it adds to counts.
    return a @ b if scale == 1 else mx.addmm(like, a, b, alpha=scale, beta=0.0)


def joined(parts: Sequence[mx.array], axis: int) -> mx.array:
    """Concatenate, or give the only one."""
    return parts[0] if len(parts) == 1 else mx.concatenate(list(parts), axis=axis)


class Projection(Protocol):
    """A layer that may compute together with others."""

    _shared: "FusedProjections | None"

    def low_rank(self, dtype: mx.Dtype) -> LowRankUpdate:
        """Give the frozen layer and its update, the factors in a type."""

    def product(self, x: mx.array) -> mx.array:
        """Apply the layer for itself."""


class FusedProjections:
    """Layers that one module calls with one and the same input, such as the projections to queries, keys and values.

    The first that is called computes for all; the others take what is theirs if they are given the same array. If one
    was never asked for what was computed for it, its module does otherwise, and from then on each computes for itself.
    """

    def __init__(self, layers: Sequence[Projection]) -> None:
        """Name the layers, with the same number of inputs."""
        self._layers = layers
        self._given: mx.array | None = None
        self._waiting: dict[int, mx.array] = {}

    def product(self, layer: Projection, x: mx.array) -> mx.array:
        """Apply one of the layers to f[..., inputs]."""
        if x is self._given and id(layer) in self._waiting:
            y = self._waiting.pop(id(layer))
            if not self._waiting:
                self._given = None
            return y
        if self._waiting:
            self.unfuse()
            return layer.product(x)
        ys = fused_lora_matmul([other.low_rank(x.dtype) for other in self._layers], x)
        self._given = x
        self._waiting = {id(other): y for other, y in zip(self._layers, ys, strict=True)}
        return self._waiting.pop(id(layer))

    def unfuse(self) -> None:
        """Undo the fusion: each layer computes its own products again."""
        self._waiting, self._given = {}, None
        for layer in self._layers:
            layer._shared = None  # noqa: SLF001
