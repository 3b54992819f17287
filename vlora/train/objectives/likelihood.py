"""The negative log-likelihood of tokens, by whichever of three ways is fastest, and what else their logits say.

Pure, and safe to trace.
"""

from typing import cast

import mlx.core as mx

from ...ops import cpu_exp
from ...ops.cpu_exp import along_rows, reduce_rows, shifted_exp_rows
from ...ops.cuda_kernels import can_read_whole, row_losses, row_losses_gradient
from ...ops.custom_vjp import custom_vjp

MEAN_LOGIT, ENTROPY, IS_LIKELIEST = TOKEN_STATISTICS = ("mean_logit", "entropy", "is_likeliest")
"""What the logits of a place say: their mean, the entropy of the tokens that may follow (nats), and 1 where the target
is the likeliest of them, 0 elsewhere."""


def token_nll_with_statistics(logits: mx.array, ids: mx.array) -> tuple[mx.array, mx.array]:
    """Give the negative log-likelihood of each target and the `TOKEN_STATISTICS`, without a gradient, in one go.

    Args:
        logits: f[n, V], each row predicts the token in its own place; any float type.
        ids: i32[n].

    Returns:
        (f32[n] nats, f32[n, 3]), both computed in f32.
    """
    precise = logits.astype(mx.float32)
    if cpu_exp.has_slow_exponentials():
        # Exponentials are most of the work here: they are computed once for both.
        nll, *sums = _passes(precise, ids)
        return nll, _find_statistics(precise, ids, *sums)
    top = precise.max(axis=-1, keepdims=True)
    powers = mx.exp(precise - top)
    return token_nll(logits, ids), _find_statistics(precise, ids, powers, powers.sum(axis=-1, keepdims=True), top)


def _find_statistics(logits: mx.array, ids: mx.array, powers: mx.array, total: mx.array, largest: mx.array) -> mx.array:
    """Find them of logits f32[n, V], their shifted exponentials f32[n, V], and the sums and largest, f32[n, 1] each."""
    logits, powers, total, top = map(mx.stop_gradient, (logits, powers, total, largest))
    entropy = mx.log(total) + top - reduce_rows(mx.sum, powers * logits) / total
    mean = reduce_rows(mx.sum, logits) / logits.shape[-1]
    is_likeliest = mx.take_along_axis(logits, ids[:, None], axis=-1) >= top
    return mx.concatenate([mean, entropy, is_likeliest.astype(mx.float32)], axis=-1)


def token_nll(logits: mx.array, ids: mx.array) -> mx.array:
    """Give the negative log-likelihood of each token, computed in f32.

    Args:
        logits: f[..., V], each row predicts the token in its own place; any float type.
        ids: i32[...].

    Returns:
        f32[...] nats.
    """
    if cpu_exp.has_slow_exponentials():
        return _nll_in_passes(logits.astype(mx.float32), ids)
    if can_read_whole(logits.shape[-1], logits):
        return _nll_by_kernel(logits, ids)
    return _nll(logits.astype(mx.float32), ids)


def _nll(logits: mx.array, targets: mx.array) -> mx.array:
    """Give the negative log-likelihood of each target: f[..., V], i32[...] to f[...]."""
    # Written out: the gradient of this sum is made of the exponentials themselves, where that of `logsumexp` takes
    # them all once more.
    top = mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    normalizer = mx.log(mx.exp(logits - top).sum(axis=-1)) + top.squeeze(-1)
    return normalizer - mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)


def _nll_in_passes(logits: mx.array, targets: mx.array) -> mx.array:
    """Do what `_nll` does in passes that are vector instructions each, as are those of its gradient."""
    nll, *_kept = _passes(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    return nll.reshape(targets.shape)


def _passes(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Find losses f32[n], and without a gradient shifted exponentials f32[n, V], sums and largest f32[n, 1]."""
    places = targets[:, None]

    @custom_vjp(keeps="results")
    def run(logits: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        powers, total, largest = shifted_exp_rows(logits)
        return mx.log(total) + largest - mx.take_along_axis(logits, places, axis=-1), powers, total, largest

    @run.vjp
    def run_vjp(_: mx.array, cotangents: tuple[mx.array, ...], results: tuple[mx.array, ...]) -> mx.array:
        towards, powers, total = cotangents[0], *results[1:3]
        gradient = powers * along_rows(towards / total, powers)
        return gradient.at[mx.arange(len(places))[:, None], places].add(-towards)

    nll, powers, total, largest = cast("tuple[mx.array, ...]", run(logits))
    return nll.squeeze(-1), powers, total, largest


def _nll_by_kernel(logits: mx.array, targets: mx.array) -> mx.array:
    """Do what `_nll` does without writing down logits in float32, or their exponentials."""
    places = targets.reshape(-1)

    @custom_vjp(keeps="results")
    def run(logits: mx.array) -> tuple[mx.array, mx.array]:
        return row_losses(logits, places)

    @run.vjp
    def run_vjp(logits: mx.array, cotangents: tuple[mx.array, ...], results: tuple[mx.array, ...]) -> mx.array:
        return row_losses_gradient(logits, places, results[1], cotangents[0])

    nll, _ = cast("tuple[mx.array, mx.array]", run(logits.reshape(-1, logits.shape[-1])))
    return nll.reshape(targets.shape)
