"""What is minimised. Pure, and safe to trace.

Losses return sums and counts, never means: the mean is taken once per optimizer step, over all supervised
tokens of all microbatches. A mean of means would weigh a one-token microbatch like a hundred-token one.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

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
    nll = nn.losses.cross_entropy(logits.astype(mx.float32), targets, reduction="none")
    # where, not a product: an infinite loss of a token that does not count must not become NaN.
    return mx.where(weights > 0, nll * weights, 0).sum(), weights.sum()
