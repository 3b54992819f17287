"""The training step: a pure function of state and batches, compiled.

A step is `embed -> language step -> update`. Embedding (vision tower, merging of image features into the
text) depends on values, such as where the images stand, so it runs before the compiled part; the language
model, the loss and their gradients are one compiled function, the update is another. When something on the
embedding side is trained, the language step also returns the gradients of its inputs, and the backbone
carries them on.

The model is a `Backbone`: its module holds the frozen weights, and the trained ones only while a function
here has bound them. After every call it is as it was before.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from ..adapters.layers import compute_dtypes
from ..types import Batch, StepOutput, TrainState, Tree
from .backbone import Backbone, Params
from .chunked_head import language_model_loss
from .dropout import KEYS, MakeKey, dropout_keys
from .flat_params import FLAT, FlatParams, Unpacked
from .grad_checkpoint import CheckpointPart, checkpointed
from .objectives.sft import LossFn, loss_fn
from .optimizers import clip_by_global_norm, let_decay
from .rules import Rules
from .state import bound_params


class TrainStep(Protocol):
    """A step: `(state, microbatches, learning rate) -> (state, output)`."""

    n_traces: int
    """How many shapes have been traced so far."""

    def __call__(
        self, state: TrainState, microbatches: Batch | Sequence[Batch], learning_rate: float
    ) -> tuple[TrainState, StepOutput]:
        """Take one optimizer step over all supervised tokens of the microbatches."""


def make_train_step(
    backbone: Backbone,
    optimizer: optim.Optimizer,
    *,
    loss: LossFn = loss_fn,
    max_grad_norm: float | None = None,
    lr_multipliers: Mapping[str, float] | None = None,
    undecayed: Collection[str] = (),
    grad_checkpoint: bool = False,
    checkpoint_every: int = 1,
    checkpoint_part: CheckpointPart = "layer",
    seed: int = 0,
    rules: Rules | None = None,
    compiled: bool = True,
) -> TrainStep:
    """Make the training step.

    Gradients of the summed loss are added over the microbatches and divided once, by the number of supervised
    tokens of them all, then clipped by their global norm. Where the loss or the norm is not finite, the parameters stay
    as they were, and the optimizer takes a gradient of zero: nothing that is not a number gets into a state.

    Args:
        backbone: The model.
        optimizer: As `make_optimizer` makes it; its state travels in `TrainState`.
        loss: Sums and counts, as `vlora.train.objectives.sft.loss_fn`.
        max_grad_norm: Largest global norm of the mean gradient.
        lr_multipliers: How many times the learning rate a parameter has; once, where it is not named.
        undecayed: Parameters that the optimizer's weight decay leaves out.
        grad_checkpoint: Recompute activations in the backward pass: those of the language model's layers, and of the
            tower's where it is trained.
        checkpoint_every: With it: of every k-th layer only.
        checkpoint_part: With it: of whole layers, or of their MLPs only.
        seed: With the step's number it fixes the dropout; nothing random is carried from step to step.
        rules: Which versions of what has changed the step follows; the newest if not given.
        compiled: False runs the same code eagerly.

    Returns:
        `step(state, microbatches, learning_rate)`. Traces once per shape of a batch; nothing in it waits for
        the device.
    """
    checkpoint_modules = backbone.checkpoint_modules(checkpoint_every, checkpoint_part) if grad_checkpoint else ((), ())
    make_key = KEYS[(rules or Rules()).dropout_keys](seed)
    return _TrainStep(
        backbone,
        optimizer,
        loss,
        max_grad_norm,
        lr_multipliers or {},
        undecayed,
        checkpoint_modules,
        make_key,
        compiled,
    )


class _TrainStep:
    def __init__(
        self,
        backbone: Backbone,
        optimizer: optim.Optimizer,
        loss: LossFn,
        max_grad_norm: float | None,
        lr_multipliers: Mapping[str, float],
        undecayed: Collection[str],
        checkpoint_modules: tuple[Sequence[nn.Module], Sequence[nn.Module]],
        make_key: MakeKey,
        compiled: bool,
    ) -> None:
        self.n_traces = 0
        self._backbone = backbone
        self._optimizer = optimizer
        self._loss = loss
        self._max_grad_norm = max_grad_norm
        self._rate_factors = lr_multipliers
        self._undecayed = frozenset(undecayed)
        self._recomputed, self._recomputed_in_tower = checkpoint_modules
        self._make_key = make_key
        self._embed_names = backbone.embed_param_names()
        wrap: Callable[..., Any] = mx.compile if compiled and backbone.is_traceable else lambda function: function
        self._packing = FlatParams({})
        self._unpacked: Unpacked | None = None
        self._used_types: dict[str, mx.Dtype] | None = None
        self._gradients = wrap(self._microbatch_gradients)
        self._update = wrap(self._apply_gradients)

    def __call__(
        self, state: TrainState, microbatches: Batch | Sequence[Batch], learning_rate: float
    ) -> tuple[TrainState, StepOutput]:
        batches = [microbatches] if isinstance(microbatches, Batch) else list(microbatches)
        packing = self._packing = FlatParams.of(state.params, self._optimizer)
        packed = packing.pack(state.params, self._unpacked)
        # Gradients that others are added to come one by one.
        given = state.params if self._embed_names else packed
        total: Params | None = None
        nll_sum = n_supervised = mx.array(0.0)
        embed_params = {name: state.params[name] for name in self._embed_names}
        for index, batch in enumerate(batches):
            with bound_params(self._backbone.module, embed_params):
                features, others = self._backbone.embed(batch)
                key = self._make_key(index, state.step)
                (nll, n), gradients, cotangents = self._gradients(
                    given, features, others, batch.tokens, batch.selected, batch.targets, batch.weights, key
                )
                if self._embed_names:
                    carried = self._backbone.embed_vjp(batch, cotangents, self._recomputed_in_tower)
                    for name, gradient in carried.items():
                        gradients[name] = gradients[name] + gradient.astype(mx.float32)
            total = gradients if total is None else {k: total[k] + gradients[k] for k in total}
            nll_sum, n_supervised = nll_sum + nll, n_supervised + n
            if index + 1 < len(batches):
                # One microbatch's activations at a time: otherwise all of them are alive at once.
                mx.async_eval(total, nll_sum, n_supervised)
        rate = mx.array(learning_rate, dtype=mx.float32)
        new, packed_params, norm = self._update(state._replace(params=packed), total, nll_sum, n_supervised, rate)
        # In the order that they came in: another one would be traced once more.
        new = new._replace(params={name: new.params[name] for name in state.params})
        self._unpacked = packing.remember(packed_params, new.params)
        return new, StepOutput(nll_sum, n_supervised, norm)

    def _microbatch_gradients(
        self,
        given: Params,
        features: Tree,
        others: Tree,
        tokens: mx.array,
        selected: mx.array,
        targets: mx.array,
        weights: mx.array,
        key: mx.array,
    ) -> tuple[tuple[mx.array, mx.array], Params, Tree]:
        """Find sums, gradients and the inputs' gradients; gradients are packed if the parameters are."""
        self.n_traces += 1
        module = self._backbone.module
        packing = self._packing if FLAT in given else FlatParams({})
        # All at once, where they are packed. But the head's gradients are added up over its chunks, in float32.
        if self._used_types is None:
            head = self._backbone.head_names() if self._backbone.has_separable_head else frozenset()
            self._used_types = {name: dtype for name, dtype in compute_dtypes(module).items() if name not in head}
        params = packing.unpack(given, self._used_types)

        def objective(params: Params, features: Tree) -> tuple[mx.array, mx.array]:
            return language_model_loss(
                self._backbone,
                self._loss,
                params,
                (tokens, features, others),
                selected,
                targets,
                weights,
                is_trained=True,
            )

        # Around the backward pass too: a checkpointed layer runs its forward again there.
        # Corrections before: what is recomputed is what they made of a part.
        with (
            dropout_keys(module, key),
            self._backbone.overrides(),
            checkpointed(self._recomputed),
        ):
            if self._embed_names:
                sums, (gradients, cotangents) = mx.value_and_grad(objective, argnums=(0, 1))(params, features)
            else:
                sums, gradients = mx.value_and_grad(objective)(params, features)
                cotangents = {}
        masters = {name: value.astype(given[name].dtype) for name, value in packing.pack(gradients).items()}
        return sums, masters, cotangents

    def _apply_gradients(
        self,
        state: TrainState,
        gradients: Params,
        nll_sum: mx.array,
        n_supervised: mx.array,
        learning_rate: mx.array,
    ) -> tuple[TrainState, Params, mx.array]:
        """Update a state whose small parameters are packed.

        Returns:
            The new state, its parameters unpacked; the packed ones once more as one array, by its name; the norm.
        """
        packing = self._packing
        factors = packing.pack_factors(self._rate_factors)
        if FLAT not in gradients:
            gradients = packing.pack(gradients)
        gradients, norm = clip_by_global_norm(gradients, self._max_grad_norm, mx.maximum(n_supervised, 1))
        # Within the update, so that the old state need not be held until the host has seen the loss; and before the
        # optimizer, whose kernels stay fused: a choice between new and old states costs four more for each parameter.
        is_finite = mx.isfinite(nll_sum) & mx.isfinite(norm)
        gradients = {name: mx.where(is_finite, gradient, 0) for name, gradient in gradients.items()}
        rate = mx.where(is_finite, learning_rate, 0)
        optimizer = self._optimizer
        held = optimizer.state
        try:
            # A copy of the tree: MLX's optimizers write into the one that they are given.
            optimizer.state = tree_map(lambda value: value, state.opt_state)
            params: Params = {}
            with self._own_decays(gradients) as decays:
                for name, gradient in gradients.items():
                    # All parameters take the same step, each at its own rate.
                    optimizer.state["step"] = state.opt_state["step"]
                    optimizer.state["learning_rate"] = rate * factors.get(name, 1.0)
                    taken = gradient, state.params[name]
                    if decays:
                        taken = let_decay(optimizer, *taken, decays[name])
                    params |= optimizer.apply_gradients({name: taken[0]}, {name: taken[1]})
            optimizer.state["learning_rate"] = learning_rate
            unpacked = packing.unpack(params)
            packed_params = {FLAT: params[FLAT]} if packing.shapes else {}
            new_state = TrainState(unpacked, dict(optimizer.state), state.step + 1)
            return new_state, packed_params, norm
        finally:
            optimizer.state = held

    @contextmanager
    def _own_decays(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Take the weight decay from the optimizer, where some parameters are left out; give that of each."""
        if not self._undecayed:
            yield {}
            return
        optimizer = self._optimizer
        decay, optimizer.weight_decay = optimizer.weight_decay, 0.0
        shares = self._packing.pack_factors(dict.fromkeys(self._undecayed, 0.0))
        try:
            yield {name: decay * shares.get(name, 1.0) for name in names}
        finally:
            optimizer.weight_decay = decay


def make_eval_step(
    backbone: Backbone, *, loss: LossFn = loss_fn, compiled: bool = True
) -> Callable[[TrainState, Batch], tuple[mx.array, mx.array]]:
    """Make the validation step: the summed loss and the number of supervised tokens, without dropout.

    A function of its own, because a compiled function keeps the mode that it was traced in.

    Args:
        backbone: The model.
        loss: As for the training step.
        compiled: False runs the same code eagerly.

    Returns:
        `step(state, batch) -> (f32[] nats, f32[] tokens)`.
    """
    embed_param_names = backbone.embed_param_names()

    def sums(
        params: Params,
        features: Tree,
        others: Tree,
        tokens: mx.array,
        selected: mx.array,
        targets: mx.array,
        weights: mx.array,
    ) -> tuple[mx.array, mx.array]:
        with backbone.overrides():
            inputs = tokens, features, others
            return language_model_loss(backbone, loss, params, inputs, selected, targets, weights, is_trained=False)

    run = mx.compile(sums) if compiled and backbone.is_traceable else sums

    def eval_step(state: TrainState, batch: Batch) -> tuple[mx.array, mx.array]:
        with bound_params(backbone.module, {name: state.params[name] for name in embed_param_names}):
            features, others = backbone.embed(batch)
        nll, n = run(state.params, features, others, batch.tokens, batch.selected, batch.targets, batch.weights)
        return nll, n

    return eval_step
