"""Layer functions with custom gradients: the same results with fewer passes over memory and fewer kept arrays. Pure."""

import math
from collections.abc import Sequence
from typing import cast

import mlx.core as mx

from .cpu_exp import along_rows, shifted_exp_rows
from .cuda_kernels import (
    can_read_whole,
    gate_gradients,
    lanes_of,
    move_rows,
    norm_rows,
    norm_rows_gradient,
    on_cuda,
    rotate_halves,
)
from .custom_vjp import custom_vjp, depends_on

Arrays = tuple[mx.array, ...]

NARROW = 512
"""Widest rows for which MLX's own kernel leaves most threads of a block idle."""


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """Compute silu(gate) * up: f[...], f[...] to f[...]; only the inputs are kept for the gradient."""

    @custom_vjp(keeps="inputs")
    def product(gate: mx.array, up: mx.array) -> mx.array:
        return gate * mx.sigmoid(gate) * up

    @product.vjp
    def product_vjp(primals: tuple[mx.array, mx.array], cotangent: mx.array) -> tuple[mx.array, mx.array]:
        if can_read_whole(cotangent.size, *primals, cotangent):
            return gate_gradients(*primals, cotangent)
        gate, up = (depends_on(primal, cotangent) for primal in primals)
        sigmoid = mx.sigmoid(gate)
        # Each gradient is computed separately: a shared intermediate array would be written to memory.
        gate_again = depends_on(gate, gate)
        return (
            cotangent * up * sigmoid * (1 + gate * (1 - sigmoid)),
            cotangent * gate_again * mx.sigmoid(gate_again),
        )

    return cast("mx.array", product(gate, up))


def rotate(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    """Apply a rotary embedding to heads, without the copies of slicing and concatenating their halves.

    Args:
        x: f[B, T, H, D]; element d makes a pair with element d + D / 2.
        cosines: f[B, T, 1, 2, D / 2]; no gradient flows to it, nor to the sines.
        sines: f[B, T, 1, 2, D / 2], those of the first half negated.

    Returns:
        f[B, T, H, D] in the type of `x`.
    """
    n_pairs = x.shape[-1] // 2
    has_own = cosines.shape == sines.shape == (*x.shape[:2], 1, 2, n_pairs)
    is_whole = has_own and can_read_whole(n_pairs, x, cosines, sines)

    @custom_vjp(keeps="inputs")
    def rotated(x: mx.array) -> mx.array:
        return rotate_halves(x, cosines, sines) if is_whole else _rotated(x, cosines, sines)

    @rotated.vjp
    def rotated_vjp(_: mx.array, cotangent: mx.array) -> mx.array:
        if is_whole:
            return rotate_halves(cotangent, cosines, sines, is_back=True)
        return _rotated(cotangent, cosines, -sines)

    return cast("mx.array", rotated(x))


def _rotated(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    halves = x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    return (halves * cosines + halves[..., ::-1, :] * sines).astype(x.dtype).reshape(x.shape)


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | str | None = None
) -> mx.array:
    """Compute attention as `mx.fast.scaled_dot_product_attention` does without kernels, with `cpu_exp`'s exponentials.

    Args:
        queries: f32[B, H, T, D].
        keys: f32[B, K, S, D]; H is a multiple of K.
        values: f32[B, K, S, E].
        scale: Factor of the products.
        mask: What a query sees, of a shape that broadcasts to bool[B, H, T, S]; "causal"; or None.

    Returns:
        f32[B, H, T, E].
    """
    n_rows, n_heads, n_queries, n_groups = *queries.shape[:3], keys.shape[1]

    def by_keys(x: mx.array) -> mx.array:
        # Query heads that share keys are multiplied by them as one matrix.
        return x.reshape(n_rows, n_groups, -1, x.shape[-1])

    def by_heads(x: mx.array) -> mx.array:
        return x.reshape(n_rows, n_heads, n_queries, x.shape[-1])

    @custom_vjp(keeps="results")
    def attention(queries: mx.array, keys: mx.array, values: mx.array) -> Arrays:
        scores = by_keys(queries * scale) @ keys.swapaxes(-1, -2)
        powers, total, _ = shifted_exp_rows(scores if mask is None else by_keys(_masked(by_heads(scores), mask)))
        return (powers @ values) / total, powers, total

    @attention.vjp
    def attention_vjp(primals: Arrays, cotangents: Arrays, outputs: Arrays) -> Arrays:
        (queries, keys, values), (mixed, powers, total) = primals, outputs
        towards = cotangents[0] / total
        of_values = powers.swapaxes(-1, -2) @ towards
        if isinstance(mask, mx.array):
            # A query that sees nothing has equal weights for all keys, whatever the scores.
            sees = mx.broadcast_to(mask.any(axis=-1, keepdims=True), (n_rows, n_heads, n_queries, 1))
            towards = mx.where(by_keys(sees), towards, 0)
        within = along_rows((towards * mixed).sum(axis=-1, keepdims=True), powers)
        of_scores = powers * (towards @ values.swapaxes(-1, -2) - within)
        return by_heads(of_scores @ keys) * scale, of_scores.swapaxes(-1, -2) @ by_keys(queries * scale), of_values

    mixed, *_kept = cast("Arrays", attention(queries, keys, values))
    return by_heads(mixed)


def _masked(scores: mx.array, mask: mx.array | str) -> mx.array:
    """Set scores, f32[B, H, T, S], of keys that a query does not see to the lowest number."""
    lowest = mx.array(mx.finfo(mx.float32).min)
    if isinstance(mask, mx.array):
        return mx.where(mask, scores, lowest)
    n_queries, n_keys = scores.shape[-2:]
    # Adding the lowest number has the same effect as selecting it, and is faster.
    return scores + mx.triu(mx.full((n_queries, n_keys), lowest), n_keys - n_queries + 1)


def rms_norm(x: mx.array, weight: mx.array, eps: float, shape: Sequence[int] | None = None) -> mx.array:
    """RMS normalization with a frozen weight, which gets no gradient.

    Args:
        x: f[..., D], or f[..., D of several rows] if the shape is given.
        weight: f[D].
        eps: Added to the mean square.
        shape: Of the result, with D in the end; None for that of `x`.

    Returns:
        f[..., D].
    """
    given, width = tuple(x.shape if shape is None else shape), weight.size
    is_shared = can_read_whole(width, x, weight) and lanes_of(width, x.dtype) is not None

    @custom_vjp(keeps="inputs")
    def norm(x: mx.array) -> mx.array:
        if is_shared and width <= NARROW:
            return norm_rows(x, weight, eps, given)
        return mx.fast.rms_norm(x.reshape(given), weight, eps)

    @norm.vjp
    def norm_vjp(x: mx.array, cotangent: mx.array) -> mx.array:
        if is_shared:
            return norm_rows_gradient(x, weight, eps, cotangent)
        scaled = cotangent * weight
        # With a weight of another type the result has the promoted type.
        _outputs, gradients = mx.vjp(
            lambda x: mx.fast.rms_norm(x.reshape(given), None, eps).astype(scaled.dtype), [x], [scaled]
        )
        return gradients[0]

    return cast("mx.array", norm(x))


def take_rows(x: mx.array, rows: mx.array, shape: Sequence[int] | None = None) -> mx.array:
    """Take rows of an array by their numbers.

    Args:
        x: f[N, ...], or f[...] of rows of `shape`.
        rows: i32[...]; a negative number stands for zeros.
        shape: Of a row; None for what is behind the first axis.

    Returns:
        f[*rows.shape, *shape].
    """
    shape = x.shape[1:] if shape is None else shape
    if can_read_whole(math.prod(shape), x):
        return move_rows(x, rows, shape)
    is_row = (rows >= 0).reshape(*rows.shape, *[1] * len(shape))
    # A plain 0 would make numbers of truth values.
    return mx.where(is_row, _some_rows(x, rows, shape), mx.array(0, x.dtype))


def _some_rows(x: mx.array, rows: mx.array, shape: Sequence[int]) -> mx.array:
    """Take rows, and the first of them where a number is negative."""
    taken: mx.array = x.reshape(-1, *shape)[mx.maximum(rows, 0)]
    return taken


def move(x: mx.array, rows: mx.array, back: mx.array, shape: Sequence[int] | None = None) -> mx.array:
    """Move rows to other places; each comes to one place at most, so that the gradient is such a move as well.

    MLX's own gradient of a gather adds up atomically.

    Args:
        x: f[*back.shape, ...].
        rows: i32[...], numbers of its rows; where one is negative, the result is of some row or zeros, and no gradient
            may reach that place.
        back: i32[...], numbers of the result's rows; negative for a row that has no place there.
        shape: Of a row in the result; None for the one that it has.

    Returns:
        f[*rows.shape, *shape].
    """
    own = x.shape[back.ndim :]
    given = own if shape is None else shape

    @custom_vjp(keeps="inputs")
    def moved(x: mx.array) -> mx.array:
        return take_rows(x, rows, given) if on_cuda() else _some_rows(x, rows, given)

    @moved.vjp
    def moved_vjp(_: mx.array, cotangent: mx.array) -> mx.array:
        return take_rows(cotangent, back, own)

    return cast("mx.array", moved(x))
