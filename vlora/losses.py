"""What is minimised. Pure, and safe to trace.

Losses return sums and counts, never means: the mean is taken once per optimizer step, over all supervised
tokens of all microbatches. A mean of means would weigh a one-token microbatch like a hundred-token one.
"""

from collections.abc import Callable

import mlx.core as mx

LossFn = Callable[[mx.array, mx.array, mx.array], tuple[mx.array, mx.array]]
"""(logits f[..., V], targets i32[...], weights f32[...]) -> (f32[] summed loss, f32[] summed weights)."""


def loss_fn(logits: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
    """Sum the negative log-likelihood of the targets.

    Args:
        logits: f[..., V], each row predicts the target in its own place; any float type, computed in f32.
        targets: i32[...], token ids.
        weights: f32[...], 1 for a supervised target and 0 for any other.

    Returns:
        (f32[] nats, f32[] tokens); (0, 0) when nothing is supervised.

    Raises:
        Nothing within a trace; `collate` has checked the shapes.
    """
    logits = logits.astype(mx.float32)
    # Written out: the gradient of this sum is made of the exponentials themselves, where that of `logsumexp` takes
    # them all once more, which on a CPU is a sixth of a small model's step.
    top = mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    normalizer = mx.log(mx.exp(logits - top).sum(axis=-1)) + top.squeeze(-1)
    nll = normalizer - mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    # where, not a product: an infinite loss of a token that does not count must not become NaN.
    return mx.where(weights > 0, nll * weights, 0).sum(), weights.sum()
