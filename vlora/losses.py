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


def shift_targets(tokens: mx.array, supervised: mx.array) -> tuple[mx.array, mx.array]:
    """Line targets up with the logits that predict them.

    Args:
        tokens: i32[B, T].
        supervised: bool[B, T], marks targets; column 0 is never one.

    Returns:
        (i32[B, T] targets, f32[B, T] weights): place t holds token t + 1; the last place weighs 0. A target of
        weight 0 is token 0: Mllama's image token has an id beyond its logits, and MLX does not check bounds.
    """
    weights = mx.concatenate([supervised[:, 1:], mx.zeros_like(supervised[:, :1])], axis=1)
    following = mx.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)
    return mx.where(weights, following, 0), weights.astype(mx.float32)


def select_targets(tokens: mx.array, supervised: mx.array, selected: mx.array) -> tuple[mx.array, mx.array]:
    """Take the targets and weights of the selected places only.

    Args:
        tokens: i32[B, T].
        supervised: bool[B, T].
        selected: i32[N], flat places b T + t, as `Batch.selected`.

    Returns:
        (i32[N] targets, f32[N] weights), in the order of the logits at those places.
    """
    targets, weights = shift_targets(tokens, supervised)
    return targets.reshape(-1)[selected], weights.reshape(-1)[selected]
