"""Factors that start from the principal part of a layer's weights (PiSSA). Pure."""

import functools

import mlx.core as mx

OVERSAMPLING = 8
POWER_ITERATIONS = 8
"""Of the randomized decomposition: sixteen products with the weights in all, as PEFT's "pissa_niter_8" takes."""


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
