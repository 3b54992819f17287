"""The language model and its loss, the head in chunks so that the logits of many places never exist at once. Pure.

The chunks run one after the other, and where a gradient is asked for, the gradient of each chunk is computed with it:
nothing has to be computed twice. What an objective gives each token's loss for a weight is known only behind all
chunks; the gradient of each place is multiplied by it then. Only where the head itself is trained, and its places are
several chunks, do these run once more.
"""

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from ..types import Inputs, Targets, Tree
from .arguments import check_sums
from .backbone import Backbone, Params
from .objectives.joined import complete_targets
from .objectives.likelihood import token_nll, token_nll_with_statistics
from .objectives.objective import LossFn, Objective, Packed
from .state import bound_params

HEAD_BYTES = 160_000_000
"""Of logits that there are at once, if they are float32, beyond which the head goes on in chunks; their gradient takes
as much. On an H100 chunks of twice as many places are no faster."""

FEWEST_HEAD_ROWS = 128
"""Places of a chunk at least: fewer make products too narrow for a GPU."""


def language_model_loss(
    params: Params,
    differentiable: Tree,
    *,
    backbone: Backbone,
    loss: LossFn | Objective,
    inputs: Inputs,
    targets: Targets,
    is_trained: bool,
) -> tuple[mx.array, mx.array, Packed]:
    """Find (summed loss, what it is divided by), both f32[], at the targets, and what an objective measures beside it.

    Safe to trace and to differentiate.

    Args:
        params: Trainable parameters by name.
        differentiable: Those of `inputs`, with regard to which there are gradients too.
        backbone: The model.
        loss: What is minimised.
        inputs: Of the language model.
        targets: What is predicted, and where.
        is_trained: Whether the sum is going to be differentiated.
    """
    inputs = inputs._replace(differentiable=differentiable)
    if not backbone.has_separable_head:
        with bound_params(backbone.module, params):
            return _whole_loss(loss, backbone.logits(*inputs, targets.positions), targets)
    head = _Head(backbone, inputs, params, targets, is_trained=is_trained)
    if isinstance(loss, Objective):
        return head.apply(loss)
    # Here and not in a function of its own: a traceback from the loss stays short.
    loss_of = head.differentiable(loss, targets.weights)
    for own, part in head.parts():
        head.add(*loss_of(head.frozen, part, own))
    return (*head.total(), ())


def token_logprobs(params: Params, *, backbone: Backbone, inputs: Inputs, targets: Targets) -> mx.array:
    """Find the log-probabilities of the targets, f32[N], 0 at fillers; safe to trace. No gradient flows through them.

    Args:
        params: Trainable parameters by name; those that are not named are the module's.
        backbone: The model.
        inputs: Of the language model.
        targets: What is predicted, and where.
    """
    if not backbone.has_separable_head:
        with bound_params(backbone.module, params):
            logprobs = -token_nll(backbone.logits(*inputs, targets.positions), targets.ids)
        return mx.stop_gradient(mx.where(targets.weights > 0, logprobs, 0))
    return mx.stop_gradient(_Head(backbone, inputs, params, targets, is_trained=False).logprobs())


class _Head:
    """The head's chunks: each begins when the one before it is done, its gradient included."""

    def __init__(
        self, backbone: Backbone, inputs: Inputs, params: Params, targets: Targets, *, is_trained: bool
    ) -> None:
        self._backbone, self._inputs, self._targets, self._is_trained = backbone, inputs, targets, is_trained
        with bound_params(backbone.module, params):
            self._hidden = backbone.hidden(*inputs, targets.positions)
            n_words = backbone.project(*inputs, self._hidden[:1]).shape[-1]
        # Given to the function by argument: it has no gradient for what it merely finds in the module.
        self._params = {name: params[name] for name in backbone.head_names() if name in params}
        self.frozen = {name: mx.stop_gradient(value) for name, value in self._params.items()}
        self._given = mx.stop_gradient(self._hidden)
        n_rows = max(FEWEST_HEAD_ROWS, HEAD_BYTES // (4 * n_words) // 64 * 64)
        self._chunks = [slice(start, start + n_rows) for start in range(0, targets.positions.size, n_rows)]
        self._last: mx.array | None = None
        self._totals: list[mx.array] = []
        self._counts: list[mx.array] = []
        self._pulled: list[mx.array] = []
        self._gradients: Params = {}

    def logits(self, head_params: Params, hidden: mx.array) -> mx.array:
        """Run the head on some hidden states: f[n, D] -> f[n, V]."""
        with bound_params(self._backbone.module, head_params):
            return self._backbone.project(*self._inputs, hidden)

    def parts(self) -> Iterator[tuple[slice, mx.array]]:
        """Yield the places of each chunk and its hidden states, which wait for what was added before."""
        for own in self._chunks:
            part = self._given[own]
            if self._last is not None:
                (part,) = mx.depends([part], [self._last])
            yield own, part

    def logprobs(self) -> mx.array:
        """Run the head once for the log-probabilities of the targets, f32[N]; 0 at fillers."""
        targets, found = self._targets, []
        for own, part in self.parts():
            self._last = -token_nll(self.logits(self.frozen, part), targets.ids[own])
            found.append(self._last)
        return mx.where(targets.weights > 0, mx.concatenate(found), 0)

    def differentiable(self, loss: LossFn, weights: mx.array) -> Callable[..., tuple[Any, ...]]:
        """Give the function of a chunk for a sum over tokens, with weights f32[N].

        It takes the head's parameters, hidden states and their places, and gives what `add` takes: the sums, and where
        the head is trained their gradients.
        """

        def chunk_loss(head_params: Params, hidden: mx.array, own: slice) -> tuple[mx.array, mx.array]:
            return check_sums(loss(self.logits(head_params, hidden), self._targets.ids[own], weights[own]))

        if self._is_trained:
            return mx.value_and_grad(chunk_loss, argnums=(0, 1))
        return lambda *given: (chunk_loss(*given),)

    def apply(self, objective: Objective) -> tuple[mx.array, mx.array, Packed]:
        """Find an objective's sums, with their gradients where it is trained, and what it measures."""
        if self._is_trained and len(self._chunks) == 1:
            return self._apply_at_once(objective)
        targets, is_trained = self._targets, self._is_trained
        logprobs, statistics, gradients = self._look(objective, is_pulled=is_trained and not self._params)
        targets = complete_targets(objective, logprobs, targets)
        outcome, gradient = mx.value_and_grad(objective.function)(logprobs, targets)
        weights = mx.where(targets.weights > 0, -gradient, 0)
        if is_trained and self._params:
            loss_of = self.differentiable(_weighted_nll, weights)
            for own, part in self.parts():
                self.add(*loss_of(self.frozen, part, own))
        self._pulled.extend(each.astype(mx.float32) * weights[:, None] for each in gradients)
        return (*self.total(outcome), objective.pack(logprobs, targets, statistics))

    def _apply_at_once(self, objective: Objective) -> tuple[mx.array, mx.array, Packed]:
        def whole(head_params: Params, hidden: mx.array) -> tuple[mx.array, mx.array, Packed]:
            return _whole_loss(objective, self.logits(head_params, hidden), self._targets)

        (loss, count, metrics), gradients = mx.value_and_grad(whole, argnums=(0, 1))(self.frozen, self._given)
        self.add((loss, count), gradients)
        return (*self.total(), metrics)

    def _look(self, objective: Objective, *, is_pulled: bool) -> tuple[mx.array, mx.array | None, tuple[mx.array, ...]]:
        """Run the head once: log-probabilities f32[N], statistics f32[N, 3], and one f[N, D] of each loss's gradient.

        Args:
            objective: Says whether it reads statistics.
            is_pulled: Whether gradients with regard to the hidden states are wanted.
        """
        found: list[list[mx.array]] = []

        def run(hidden: mx.array, own: slice) -> tuple[mx.array, ...]:
            logits, ids, weights = self.logits(self.frozen, hidden), self._targets.ids[own], self._targets.weights[own]
            nll, statistics = _measure(objective, logits, ids)
            nll = mx.where(weights > 0, nll, 0)
            return (nll.sum(), -nll, *statistics)

        for own, part in self.parts():
            if is_pulled:
                (_, *values), gradient = mx.value_and_grad(run)(part, own)
                values.append(gradient)
            else:
                _, *values = run(part, own)
            found.append(values)
            # The next chunk's logits wait for these to be read.
            (self._last,) = mx.depends(values[:1], values[1:]) if values[1:] else values
        logprobs, *rest = (mx.concatenate(list(parts)) for parts in zip(*found, strict=True))
        statistics = rest.pop(0) if objective.reads_statistics else None
        return logprobs, statistics, tuple(rest)

    def add(self, sums: tuple[mx.array, mx.array], gradients: tuple[Params, mx.array] | None = None) -> None:
        """Add a chunk's sums, and its gradients with regard to the head's parameters and the hidden states."""
        self._totals.append(sums[0])
        self._counts.append(sums[1])
        self._last = sums[0]
        if gradients is not None:
            more, self._last = gradients
            self._pulled.append(self._last)
            known = self._gradients
            self._gradients = {name: known[name] + value if known else value for name, value in more.items()}

    def total(self, outcome: tuple[mx.array, mx.array] | None = None) -> tuple[mx.array, mx.array]:
        """Give the sums of all chunks, or those of an objective, with the gradient that the chunks have."""
        loss, count = outcome or (mx.stack(self._totals).sum(), mx.stack(self._counts).sum())
        if self._is_trained:
            loss = loss + _inject_gradient(self._hidden, mx.concatenate(self._pulled))
            for name, gradient in self._gradients.items():
                loss = loss + _inject_gradient(self._params[name], gradient)
        return loss, count


def _whole_loss(loss: LossFn | Objective, logits: mx.array, targets: Targets) -> tuple[mx.array, mx.array, Packed]:
    """Apply what is minimised to the logits of all targets at once."""
    if isinstance(loss, Objective):
        nll, statistics = _measure(loss, logits, targets.ids)
        logprobs = mx.where(targets.weights > 0, -nll, 0)
        targets = complete_targets(loss, logprobs, targets)
        return (*check_sums(loss.function(logprobs, targets)), loss.pack(logprobs, targets, *statistics))
    return (*check_sums(loss(logits, targets.ids, targets.weights)), ())


def _measure(objective: Objective, logits: mx.array, ids: mx.array) -> tuple[mx.array, tuple[mx.array, ...]]:
    """Find the losses of targets, f32[n], and the statistics, f32[n, 3], if they are read."""
    if not objective.reads_statistics:
        return token_nll(logits, ids), ()
    nll, statistics = token_nll_with_statistics(logits, ids)
    return nll, (statistics,)


def _weighted_nll(logits: mx.array, ids: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
    """Sum losses with weights of either sign."""
    return mx.where(weights == 0, 0, token_nll(logits, ids) * weights).sum(), weights.sum()


def _inject_gradient(value: mx.array, gradient: mx.array) -> mx.array:
    """Make a zero whose gradient with regard to a value is one that is known already."""
    product = (value.astype(mx.float32) * mx.stop_gradient(gradient).astype(mx.float32)).sum()
    return product - mx.stop_gradient(product)
