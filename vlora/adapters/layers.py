"""Low-rank adapters: the layers themselves. Knows no disk, no recipe and no model family."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import ModelError
from ..ops.custom_vjp import custom_vjp
from ..ops.quantized import add_product, dequantized_weight, frozen_linear, linear_shape
from .targets import is_experts

Method = Literal["lora", "dora"]
Init = Literal["default", "pissa"]

SHARE_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("wq", "wk", "wv"), ("w1", "w3"))
"""Names of layers that one module calls with the same input."""

ATTENDS_ELSEWHERE = ("cross", "encoder_attn")
"""Parts of the names of modules whose keys and values come from another input than their queries."""

OVERSAMPLING = 8
POWER_ITERATIONS = 8
"""Of the randomized decomposition: sixteen products with the weights in all, as PEFT's "pissa_niter_8" takes."""


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
        if self._shared is not None and not self.drops:
            return self._shared.product(self, x)
        return self.product(x)

    @property
    def is_plain(self) -> bool:
        """Whether the frozen layer is MLX's own, so that nothing but its weights decides its gradient."""
        return type(self.linear) in {nn.Linear, nn.QuantizedLinear}

    def product(self, x: mx.array, *, with_bias: bool = True) -> mx.array:
        """Apply layer and update, whatever other layers do with the same input."""
        if self.is_plain and not self.drops:
            return fused_lora_matmul([self], x, with_bias=with_bias)[0]
        y = frozen_linear(self.linear, x, with_bias=with_bias)
        lora_a, lora_b = self.factors(x.dtype)
        return y + (self.scale * multiply_low_rank(self.dropped(x), lora_a, lora_b)).astype(y.dtype)


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


def fused_lora_matmul(layers: Sequence[LoRALinear], x: mx.array, *, with_bias: bool = True) -> list[mx.array]:
    """Apply layers with their updates to one input, without dropout.

    One product with the A of all of them, and sums that are begun by the small product and gone on with by the large
    one, so that activations are read and written as rarely as can be. What lies between A and B has a row for each of
    the rank: of that a layer's own part is whole, where MLX would copy columns before it multiplies them.

    In the backward pass the factors' gradients are computed before anything goes on from the input's: otherwise an
    evaluation that follows the chain of activations down to the first layer would keep every layer's gradients alive
    until it came back for the factors.

    Args:
        layers: With the same number of inputs, and no dropout now.
        x: f[..., inputs].
        with_bias: Whether the layers' biases are added.

    Returns:
        f[..., outputs] of each layer, in the type of `x`.
    """
    linears = [layer.linear for layer in layers]
    pairs = [layer.factors(x.dtype) for layer in layers]
    scales = [layer.scale for layer in layers]
    ends = list(itertools.accumulate(a.shape[1] for a, _ in pairs))
    spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def scaled(factors: Sequence[mx.array]) -> mx.array:
        # The factors A, joined: the smallest of all that could be multiplied with the scale.
        if len(set(scales)) == 1:
            return scales[0] * joined(factors[::2], 1)
        return joined([scale * a for a, scale in zip(factors[::2], scales, strict=True)], 1)

    @custom_vjp(keeps="results", ordered=True)
    def products(x: mx.array, *factors: mx.array) -> tuple[mx.array, ...]:
        within = scaled(factors).T @ x.T
        outputs = []
        for linear, span, b in zip(linears, spans, factors[1::2], strict=True):
            part = within[span].T
            update = mx.addmm(linear.bias, part, b) if with_bias and "bias" in linear else part @ b
            outputs.append(add_product(update, linear, x))
        return (within, *outputs)

    @products.vjp
    def products_vjp(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        x, *factors = primals
        towards = list(cotangents[1:])
        within = outputs[0]
        inner = joined([b @ d.T for d, b in zip(towards, factors[1::2], strict=True)], 0)
        of_a = x.T @ inner.T
        gradients = []
        for d, span, scale in zip(towards, spans, scales, strict=True):
            gradients += [scale * of_a[:, span], within[span] @ d]
        of_x = mx.matmul(inner.T, scaled(factors).T)
        for d, linear in zip(towards, linears, strict=True):
            of_x = mx.addmm(of_x, d, dequantized_weight(linear, after=d, dtype=d.dtype))
        # Where a layer is of another type than its input, so is what flows back.
        gradients = [value.astype(factor.dtype) for value, factor in zip(gradients, factors, strict=True)]
        return (of_x.astype(x.dtype), *gradients)

    rows = x.reshape(-1, x.shape[-1])
    outputs = cast("tuple[mx.array, ...]", products(rows, *itertools.chain(*pairs)))
    return [y.reshape(*x.shape[:-1], y.shape[-1]) for y in outputs[1:]]


def joined(parts: Sequence[mx.array], axis: int) -> mx.array:
    """Concatenate, or give the only one."""
    return parts[0] if len(parts) == 1 else mx.concatenate(list(parts), axis=axis)


class FusedProjections:
    """Layers that one module calls with one and the same input, such as the projections to queries, keys and values.

    The first that is called computes for all; the others take what is theirs if they are given the same array. If one
    was never asked for what was computed for it, its module does otherwise, and from then on each computes for itself.
    """

    def __init__(self, layers: Sequence[LoRALinear]) -> None:
        """Name the layers, with the same number of inputs."""
        self._layers = layers
        self._given: mx.array | None = None
        self._waiting: dict[int, mx.array] = {}

    def product(self, layer: LoRALinear, x: mx.array) -> mx.array:
        """Apply one of the layers to f[..., inputs]."""
        if x is self._given and id(layer) in self._waiting:
            y = self._waiting.pop(id(layer))
            if not self._waiting:
                self._given = None
            return y
        if self._waiting:
            self.unfuse()
            return layer.product(x)
        ys = fused_lora_matmul(self._layers, x)
        self._given = x
        self._waiting = {id(other): y for other, y in zip(self._layers, ys, strict=True)}
        return self._waiting.pop(id(layer))

    def unfuse(self) -> None:
        """Let each layer compute for itself."""
        self._waiting, self._given = {}, None
        for layer in self._layers:
            layer._shared = None  # noqa: SLF001


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
        z = self.dropped(x)
        for factor in self.factors(x.dtype):
            z = mx.gather_mm(z, factor.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)
        return y + (self.scale * z).astype(y.dtype)


def pissa_factors(weight: mx.array, rank: int, scale: float, key: mx.array) -> tuple[mx.array, mx.array]:
    """Find the factors whose scaled product is the principal part of some weights.

    Small matrices are decomposed exactly, large ones by subspace iteration (Halko et al., 2011, algorithm 4.4): an
    exact decomposition takes minutes for every few layers.

    Args:
        weight: f[outputs, inputs].
        rank: R, at most the smaller of the two.
        scale: Of the product.
        key: Where the iteration starts.

    Returns:
        (f32[inputs, R], f32[R, outputs]).
    """
    # MLX decomposes on CPUs only. Every call names its stream: the default one is not this thread's to change.
    cpu = mx.cpu
    multiply = functools.partial(mx.matmul, stream=cpu)
    weight = weight.astype(mx.float32, stream=cpu)
    width = rank + OVERSAMPLING
    if min(weight.shape) <= 4 * width:
        left, values, right = mx.linalg.svd(weight, stream=cpu)
    else:
        start = mx.random.normal((weight.shape[1], width), key=key, stream=cpu)
        basis, _ = mx.linalg.qr(multiply(weight, start), stream=cpu)
        for _ in range(POWER_ITERATIONS):
            other, _ = mx.linalg.qr(multiply(weight.T, basis), stream=cpu)
            basis, _ = mx.linalg.qr(multiply(weight, other), stream=cpu)
        inner, values, right = mx.linalg.svd(multiply(basis.T, weight), stream=cpu)
        left = multiply(basis, inner)
    spread = mx.sqrt(values[:rank] / scale)
    factors = right[:rank].T * spread, spread[:, None] * left[:, :rank].T
    mx.eval(factors)
    return factors


def attach_lora(
    model: nn.Module,
    names: Sequence[str],
    *,
    rank: int,
    scale: float,
    dropout: float = 0.0,
    method: Method = "lora",
    init: Init = "default",
    seed: int = 0,
) -> None:
    """Wrap the named layers in place. Freeze the model before, so that only adapters train.

    Args:
        model: The whole model.
        names: As `resolve_target_modules` returns them.
        rank: R.
        scale: What the product of the factors is multiplied with: alpha / rank, or alpha / sqrt(rank) (rsLoRA).
        dropout: In [0, 1).
        method: "dora" trains the length of every adapted row too.
        init: "pissa" starts from the principal part of each layer's weights.
        seed: Fixes the factors' start.

    Raises:
        ModelError: DoRA on a layer of experts, or a rank larger than a layer is wide with "pissa".
    """
    modules = dict(model.named_modules())
    keys = mx.random.split(mx.random.key(seed), max(1, len(names)))
    wrapped = []
    for name, key in zip(names, list(keys), strict=False):
        module = modules[name]
        kind: type[LoRALinear | LoRASwitchLinear] = DoRALinear if method == "dora" else LoRALinear
        if is_experts(module):
            if method == "dora":
                msg = f"lora.method: 'dora' has no form for experts, and {name} is a layer of experts; leave it out"
                raise ModelError(msg)
            kind = LoRASwitchLinear
        layer = kind(module, rank, scale, dropout, key)
        if init == "pissa":
            layer.set_initial_factors(*_principal_start(module, name, rank, scale, key))
        wrapped.append((name, layer))
    model.update_modules(tree_unflatten(wrapped))
    share_inputs(model)


def share_inputs(model: nn.Module) -> None:
    """Let adapters that read the same input compute together: those of queries, keys and values, of gate and up."""
    for name, module in model.named_modules():
        if any(word in name for word in ATTENDS_ELSEWHERE):
            continue
        for together in SHARE_INPUT:
            layers = [module[child] for child in together if type(module.get(child)) is LoRALinear]
            layers = [layer for layer in layers if layer.is_plain and layer.dropout == layers[0].dropout]
            widths = {linear_shape(layer.linear)[1] for layer in layers}
            if len(layers) > 1 and len(widths) == 1:
                shared = FusedProjections(layers)
                for layer in layers:
                    layer._shared = shared  # noqa: SLF001


def _principal_start(module: nn.Module, name: str, rank: int, scale: float, key: mx.array) -> tuple[mx.array, mx.array]:
    weight = dequantized_weight(module)
    if rank > min(weight.shape[-2:]):
        msg = f"lora.rank: found {rank} with lora.init = 'pissa', but {name} is {' x '.join(map(str, weight.shape))}"
        raise ModelError(msg)
    if not is_experts(module):
        return pissa_factors(weight, rank, scale, key)
    # As experts have them, the other way round.
    factors = [pissa_factors(expert, rank, scale, key) for expert in weight]
    return mx.stack([a.T for a, _ in factors]), mx.stack([b.T for _, b in factors])


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """Yield the adapters of a model with their names, in the model's order."""
    # MLX names the last module first.
    for name, module in reversed(model.named_modules()):
        if isinstance(module, Adapter):
            yield name, module


def compute_dtypes(model: nn.Module) -> dict[str, mx.Dtype]:
    """Say in which type a step uses each trainable parameter: its own, an adapter's factors in its frozen layer's."""
    types = {name: value.dtype for name, value in tree_flatten(model.trainable_parameters())}
    for name, layer in lora_layers(model):
        weight = layer.linear.get("scales", layer.linear.weight)
        # DoRA's norms are of the masters; packed scales (mxfp4, nvfp4) do not say of what type the layer's input is.
        if not isinstance(layer, DoRALinear) and mx.issubdtype(weight.dtype, mx.floating):
            types |= dict.fromkeys((f"{name}.lora_a", f"{name}.lora_b"), weight.dtype)
    return types


def adapter_state_dict(model: nn.Module, params: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Give trained parameters as they are saved: every adapter as a LoRA on the original base.

    Args:
        model: The model with its adapters.
        params: Trained parameters by name.

    Returns:
        Name to array; twice the rank where an adapter started from the principal part of its weights.
    """
    arrays = dict(params)
    for name, layer in lora_layers(model):
        a, b = f"{name}.lora_a", f"{name}.lora_b"
        arrays[a], arrays[b] = layer.effective_factors(params[a], params[b])
    return arrays
