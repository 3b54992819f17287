"""Low-rank adapters: the layers themselves. Knows no disk, no recipe and no model family."""

import math

import mlx.core as mx
import mlx.nn as nn

from ..ops.quantized import dequantized_weight, frozen_linear, linear_shape
from .fused import FusedProjections, LowRankUpdate, fused_lora_matmul, multiply_low_rank


class Adapter(nn.Module):  # type: ignore[misc]
    """What all adapters share: a frozen layer, two trained factors, and how much of their product is added.

    A and B are float32 masters and are cast to the input's type where they are used: float32 factors would
    promote every later activation of a bfloat16 model. Names and shapes are those of mlx-vlm's own layers, so
    that it loads what is saved here.

    An adapter that starts from the principal part of the weights (PiSSA, Meng et al., 2024, arXiv 2404.02948) keeps
    the product that it starts from and subtracts it, instead of taking it out of the frozen weights: the same
    function, but the weights need neither be changed nor quantized again, and what was learned is a LoRA of twice the
    rank on the original base.

    Attributes:
        linear: The frozen layer.
        scale: What the product of the factors is multiplied with.
        dropout: Probability that an input of the update is dropped, in [0, 1).
        lora_a: f32[inputs, R], or f32[experts, R, inputs].
        lora_b: f32[R, outputs], or f32[experts, outputs, R].
    """

    rank_axes = (1, 0)
    """Axes of the rank in A and in B."""

    def __init__(self, linear: nn.Module, scale: float, dropout: float) -> None:
        """Wrap a layer and freeze it; the subclass makes the factors."""
        super().__init__()
        linear.freeze()
        self.linear = linear
        self.scale = scale
        self.dropout = dropout
        # Set for the time of one training trace by `dropout_keys`; without it nothing is dropped.
        self._dropout_key: mx.array | None = None
        # Set by `switched_off`: the layer is the frozen one then.
        self._is_off = False
        self._start: tuple[mx.array, mx.array] | None = None

    def set_initial_factors(self, lora_a: mx.array, lora_b: mx.array) -> None:
        """Start from these factors, with a product that is subtracted from then on."""
        self.lora_a, self.lora_b = lora_a, lora_b
        # Copies: one array cannot be both a constant and an argument of a compiled step.
        self._start = (mx.array(lora_a), mx.array(lora_b))
        mx.eval(self._start)

    def effective_factors(self, lora_a: mx.array, lora_b: mx.array) -> tuple[mx.array, mx.array]:
        """Join given factors with those that the layer started from, negated: the update as one LoRA."""
        if self._start is None:
            return lora_a, lora_b
        axis_a, axis_b = self.rank_axes
        # Rounded as what they are subtracted from is: the difference has to be none at the start.
        a, b = self._start[0].astype(lora_a.dtype), self._start[1].astype(lora_b.dtype)
        return mx.concatenate([lora_a, a], axis=axis_a), mx.concatenate([lora_b, -b], axis=axis_b)

    def factors(self, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """Give A and B in a type."""
        lora_a, lora_b = self.effective_factors(self.lora_a, self.lora_b)
        return lora_a.astype(dtype), lora_b.astype(dtype)

    @property
    def drops(self) -> bool:
        """Whether inputs of the update are dropped: while training, if at all."""
        return bool(self.dropout) and self._dropout_key is not None

    def dropped(self, x: mx.array) -> mx.array:
        """Drop inputs of the update while training."""
        if not self.drops:
            return x
        kept = mx.random.bernoulli(1 - self.dropout, x.shape, key=self._dropout_key)
        return mx.where(kept, x * (1 / (1 - self.dropout)), 0).astype(x.dtype)


class LoRALinear(Adapter):
    """A frozen linear layer plus a trained update of low rank: `linear(x) + scale * dropout(x) A B`."""

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float, key: mx.array) -> None:
        """Wrap a layer.

        Args:
            linear: `nn.Linear` or `nn.QuantizedLinear`; it is frozen.
            rank: R.
            scale: As in `Adapter`.
            dropout: As in `Adapter`.
            key: Random key for A, drawn as PEFT draws it: uniform in +-1/sqrt(inputs). B is zero.
        """
        super().__init__(linear, scale, dropout)
        n_outputs, n_inputs = linear_shape(linear)
        bound = 1 / math.sqrt(n_inputs)
        self.lora_a = mx.random.uniform(-bound, bound, (n_inputs, rank), key=key)
        self.lora_b = mx.zeros((rank, n_outputs))

        # Set by `share_inputs`.
        self._shared: FusedProjections | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """Apply layer and update to f[..., inputs]; the result has the layer's own type."""
        if self._is_off:
            return frozen_linear(self.linear, x)
        if self._shared is not None and not self.drops:
            return self._shared.product(self, x)
        return self.product(x)

    @property
    def is_plain(self) -> bool:
        """Whether the frozen layer is MLX's own, so that nothing but its weights decides its gradient."""
        return type(self.linear) in {nn.Linear, nn.QuantizedLinear}

    def low_rank(self, dtype: mx.Dtype) -> LowRankUpdate:
        """Give the frozen layer and its update, the factors in a type."""
        return LowRankUpdate(self.linear, self.scale, *self.factors(dtype))

    def product(self, x: mx.array, *, with_bias: bool = True) -> mx.array:
        """Apply the layer and its update, without the fused products of other layers."""
        if self.is_plain:
            dropped = self.dropped(x) if self.drops else None
            return fused_lora_matmul([self.low_rank(x.dtype)], x, dropped=dropped, with_bias=with_bias)[0]
        y = frozen_linear(self.linear, x, with_bias=with_bias)
        lora_a, lora_b = self.factors(x.dtype)
        return y + (self.scale * multiply_low_rank(self.dropped(x), lora_a, lora_b)).astype(y.dtype)


class DoRALinear(LoRALinear):
    """A linear layer whose rows are turned by a LoRA and stretched by lengths of their own.

    `m / |W + scale (A B)^T| * (linear(x) + scale * dropout(x) A B)`, the bias added after it; no gradient flows through
    the norms (Liu et al., 2024, arXiv 2402.09353, section 4.3).

    Attributes:
        m: f32[outputs], the trained length of each row of weights; the norms of the base's rows at the start.
    """

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float, key: mx.array) -> None:
        """Wrap a layer, as `LoRALinear` does."""
        super().__init__(linear, rank, scale, dropout, key)
        weight = dequantized_weight(linear, dtype=mx.float32)
        self._squares = mx.square(weight).sum(axis=1)
        self.m = mx.sqrt(self._squares)
        mx.eval(self._squares, self.m)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer to f[..., inputs]; the result has the layer's own type."""
        if self._is_off:
            return frozen_linear(self.linear, x)
        y = self.product(x, with_bias=False)
        y = (self.m / mx.stop_gradient(self.norms())).astype(y.dtype) * y
        return y + self.linear.bias if "bias" in self.linear else y

    def norms(self) -> mx.array:
        """Compute the norm of each adapted row, f32[outputs], without making the adapted weights.

        |w + s b A|^2 = |w|^2 + 2 s b (A w) + s^2 b (A A^T) b^T, which takes one product of the weights with R vectors.
        """
        lora_a, lora_b = self.factors(mx.float32)
        crossed = frozen_linear(self.linear, lora_a.T, with_bias=False)
        change = 2 * (crossed * lora_b).sum(axis=0) + self.scale * (((lora_a.T @ lora_a) @ lora_b) * lora_b).sum(axis=0)
        # Rounding must not make a row that all but vanishes imaginary.
        squares = self._squares + self.scale * change
        return mx.sqrt(mx.maximum(squares, 1e-12))


class LoRASwitchLinear(Adapter):
    """A frozen linear layer of many experts plus an update of low rank for each of them."""

    rank_axes = (1, 2)

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float, key: mx.array) -> None:
        """Wrap a layer.

        Args:
            linear: A layer of stacked experts, plain or quantized; it is frozen.
            rank: R, of each expert.
            scale: As in `Adapter`.
            dropout: As in `Adapter`.
            key: Random key for A, uniform in +-1/sqrt(inputs). B is zero.
        """
        super().__init__(linear, scale, dropout)
        n_experts, n_outputs, n_inputs = linear.num_experts, linear.output_dims, linear.input_dims
        bound = 1 / math.sqrt(n_inputs)
        self.lora_a = mx.random.uniform(-bound, bound, (n_experts, rank, n_inputs), key=key)
        self.lora_b = mx.zeros((n_experts, n_outputs, rank))

    @property
    def num_experts(self) -> int:
        """How many experts there are."""
        return int(self.linear.num_experts)

    def __call__(self, x: mx.array, indices: mx.array, *, sorted_indices: bool = False) -> mx.array:
        """Apply each input's own expert.

        Args:
            x: f[..., 1, inputs].
            indices: i[...], the expert of each input.
            sorted_indices: Whether they are in ascending order.

        Returns:
            f[..., 1, outputs] in the layer's own type.
        """
        y: mx.array = self.linear(x, indices, sorted_indices=sorted_indices)
        if self._is_off:
            return y
        z = self.dropped(x)
        for factor in self.factors(x.dtype):
            z = mx.gather_mm(z, factor.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)
        return y + (self.scale * z).astype(y.dtype)
