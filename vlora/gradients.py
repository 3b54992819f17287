"""Functions with gradients of their own: the same numbers, fewer passes over memory, less kept in between. Pure.

A compiled step merges equal expressions. What is meant to be computed again in the backward pass, rather than kept,
has to depend on the gradient that arrives there: `after` says so.
"""

from typing import cast

import mlx.core as mx


def after(value: mx.array, event: mx.array) -> mx.array:
    """Give a value that is there only once an event is: an expression of it is another than one of the value."""
    return cast("mx.array", mx.depends([value], [event])[0])


@mx.custom_function
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """Multiply a gate's SiLU with what it lets through: f[...], f[...] to f[...]; keeps nothing but its inputs."""
    return gate * mx.sigmoid(gate) * up


@swiglu.vjp
def _swiglu_vjp(primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    gate, up = after(primals[0], cotangent), after(primals[1], cotangent)
    sigmoid = mx.sigmoid(gate)
    # Each gradient from its own copy: one kernel makes one array, and an intermediate that two share is written out.
    gate_again = after(gate, gate)
    return (
        cotangent * up * sigmoid * (1 + gate * (1 - sigmoid)),
        cotangent * gate_again * mx.sigmoid(gate_again),
    )


@mx.custom_function
def rotate(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    """Rotate pairs of a head's halves by their angles, without the copies of slicing and joining them.

    Args:
        x: f[B, T, H, D]; element d makes a pair with element d + D / 2.
        cosines: f[B, T, 1, 2, D / 2]; no gradient flows to it, nor to the sines.
        sines: f[B, T, 1, 2, D / 2], those of the first half negated.

    Returns:
        f[B, T, H, D] in the type of `x`.
    """
    return _rotated(x, cosines, sines)


@rotate.vjp
def _rotate_vjp(
    primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    _, cosines, sines = primals
    return _rotated(cotangent, cosines, -sines), mx.zeros_like(cosines), mx.zeros_like(sines)


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
        _outputs, gradients = mx.vjp(lambda x: mx.fast.rms_norm(x, None, eps), [x], [cotangent * weight])
        return gradients[0]

    return cast("mx.array", norm(x))
