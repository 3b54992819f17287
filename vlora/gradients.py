"""Functions with gradients of their own: the same numbers, fewer passes over memory, less kept in between. Pure.

A compiled step merges equal expressions. What is meant to be computed again in the backward pass, rather than kept,
has to depend on the gradient that arrives there: `after` says so.
"""

from typing import cast

import mlx.core as mx


def after(value: mx.array, event: mx.array) -> mx.array:
    """Give a value that is there only once an event is: an expression of it is another than one of the value."""
    return cast("mx.array", mx.depends([value], [event])[0])


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """Multiply a gate's SiLU with what it lets through: f[...], f[...] to f[...]; keeps nothing but its inputs."""

    @mx.custom_function
    def product(gate: mx.array, up: mx.array) -> mx.array:
        return gate * mx.sigmoid(gate) * up

    @product.vjp
    def product_vjp(primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
        gate, up = after(primals[0], cotangent), after(primals[1], cotangent)
        sigmoid = mx.sigmoid(gate)
        # Each gradient from its own copy: one kernel makes one array, and what two share would be written out.
        gate_again = after(gate, gate)
        return (
            cotangent * up * sigmoid * (1 + gate * (1 - sigmoid)),
            cotangent * gate_again * mx.sigmoid(gate_again),
        )

    return cast("mx.array", product(gate, up))


def rotate(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    """Rotate pairs of a head's halves by their angles, without the copies of slicing and joining them.

    Args:
        x: f[B, T, H, D]; element d makes a pair with element d + D / 2.
        cosines: f[B, T, 1, 2, D / 2]; no gradient flows to it, nor to the sines.
        sines: f[B, T, 1, 2, D / 2], those of the first half negated.

    Returns:
        f[B, T, H, D] in the type of `x`.
    """

    @mx.custom_function
    def rotated(x: mx.array) -> mx.array:
        return _rotated(x, cosines, sines)

    @rotated.vjp
    def rotated_vjp(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
        return _rotated(cotangent, cosines, -sines)

    return cast("mx.array", rotated(x))


def _rotated(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    halves = x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    return (halves * cosines + halves[..., ::-1, :] * sines).astype(x.dtype).reshape(x.shape)


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """Normalize by the root of the mean square, with a frozen weight: no gradient is computed for it.

    Args:
        x: f[..., D].
        weight: f[D].
        eps: Added to the mean square.

    Returns:
        f[..., D].
    """

    @mx.custom_function
    def norm(x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, weight, eps)

    @norm.vjp
    def norm_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        scaled = cotangent * weight
        # A weight of another type than its input makes the result that of both.
        _outputs, gradients = mx.vjp(lambda x: mx.fast.rms_norm(x, None, eps).astype(scaled.dtype), [x], [scaled])
        return gradients[0]

    return cast("mx.array", norm(x))
