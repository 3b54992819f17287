"""The language model and its loss, the head in chunks so that the logits of many places never exist at once. Pure."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from ..types import Tree
from .backbone import Backbone, Params
from .objectives.sft import LossFn
from .state import bound_params

HEAD_BYTES = 160_000_000
"""Of logits that there are at once, if they are float32, beyond which the head goes on in chunks; their gradient takes
as much. On an H100 chunks of twice as many places are no faster."""

FEWEST_HEAD_ROWS = 128
"""Places of a chunk at least: fewer make products too narrow for a GPU."""


def language_model_loss(
    backbone: Backbone,
    loss: LossFn,
    params: Params,
    inputs: tuple[mx.array, Tree, Tree],
    selected: mx.array,
    targets: mx.array,
    weights: mx.array,
    *,
    is_trained: bool,
) -> tuple[mx.array, mx.array]:
    """Run the language model and the loss at the selected places; safe to trace and to differentiate.

    The logits of many places over a large vocabulary are never there at once. They are computed in chunks, one after
    the other, and where a gradient is asked for, the gradient of each chunk with them: the loss is a sum, so that what
    flows back into it is one factor for all places, and nothing has to be computed twice.

    Args:
        backbone: The model.
        loss: Sums and counts.
        params: Trainable parameters by name.
        inputs: (i32[B, T] tokens, features, others), as `Backbone.embed` returns the last two.
        selected: i32[N], flat places.
        targets: i32[N].
        weights: f32[N].
        is_trained: Whether the sum is going to be differentiated.

    Returns:
        (f32[] summed loss, f32[] summed weights).
    """
    module = backbone.module
    if not backbone.has_separable_head:
        with bound_params(module, params):
            return loss(backbone.logits(*inputs, selected), targets, weights)
    with bound_params(module, params):
        hidden = backbone.hidden(*inputs, selected)
        n_words = backbone.project(*inputs, hidden[:1]).shape[-1]
    # Given to the function by argument: it has no gradient for what it merely finds in the module.
    head_params = {name: params[name] for name in backbone.head_names()}

    def chunk_loss(head_params: Params, hidden: mx.array, own: slice) -> tuple[mx.array, mx.array]:
        with bound_params(module, head_params):
            return loss(backbone.project(*inputs, hidden), targets[own], weights[own])

    n_rows = max(FEWEST_HEAD_ROWS, HEAD_BYTES // (4 * n_words) // 64 * 64)
    chunks = [slice(start, start + n_rows) for start in range(0, selected.size, n_rows)]
    return _chunked_loss(chunk_loss, chunks, head_params, hidden, is_trained=is_trained)


def _chunked_loss(
    chunk_loss: Callable[[Params, mx.array, slice], tuple[mx.array, mx.array]],
    chunks: Sequence[slice],
    head_params: Params,
    hidden: mx.array,
    *,
    is_trained: bool,
) -> tuple[mx.array, mx.array]:
    """Add up the loss of chunks, each begun when the one before it is done, its gradient included."""
    given = mx.stop_gradient(hidden)
    frozen = {name: mx.stop_gradient(value) for name, value in head_params.items()}
    totals: list[mx.array] = []
    counts: list[mx.array] = []
    pulled: list[mx.array] = []
    gradients: Params = {}
    for own in chunks:
        part = given[own]
        if totals:
            (part,) = mx.depends([part], [pulled[-1] if is_trained else totals[-1]])
        if not is_trained:
            total, n = chunk_loss(frozen, part, own)
        else:
            (total, n), (more, gradient) = mx.value_and_grad(
                lambda params, part, own=own: chunk_loss(params, part, own), argnums=(0, 1)
            )(frozen, part)
            gradients = {name: gradients[name] + value if gradients else value for name, value in more.items()}
            pulled.append(gradient)
        totals.append(total)
        counts.append(n)
    nll = mx.stack(totals).sum()
    if is_trained:
        nll = nll + _inject_gradient(hidden, mx.concatenate(pulled))
        for name, gradient in gradients.items():
            nll = nll + _inject_gradient(head_params[name], gradient)
    return nll, mx.stack(counts).sum()


def _inject_gradient(value: mx.array, gradient: mx.array) -> mx.array:
    """Make a zero whose gradient with regard to a value is one that is known already."""
    product = (value.astype(mx.float32) * mx.stop_gradient(gradient).astype(mx.float32)).sum()
    return product - mx.stop_gradient(product)
