"""Supervised fine-tuning: the negative log-likelihood of the supervised tokens. Pure, and safe to trace."""

import mlx.core as mx

from .likelihood import token_nll


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
    nll = token_nll(logits, targets)
    # where, not a product: an infinite loss of a token that does not count must not become NaN.
    return mx.where(weights > 0, nll * weights, 0).sum(), weights.sum()
