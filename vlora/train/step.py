"""The training step: a pure function of state and batches, compiled.

A step is `embed -> gradients -> update`. Embedding (vision tower, merging of image features into the text) depends on
values, such as where the images stand, so it runs before the compiled part; the language model, the loss and their
gradients are one compiled function, the update is another. When something on the embedding side is trained, the first
also returns the gradients of its inputs, and the backbone carries them on.

The model is a `Backbone`: its module holds the frozen weights, and the trained ones only while a function here has
bound them. After every call it is as it was before. `make_train_step` is long for the sake of its arguments' docs.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, cast

import attrs
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from ..adapters.attached import compute_dtypes
from ..errors import BatchError
from ..types import Batch, Inputs, StepOutput, Targets, TrainState, Tree
from .backbone import Backbone, Params
from .chunked_head import language_model_loss
from .dropout import KEYS, MakeKey, dropout_keys
from .flat_params import FLAT, FlatParams, Unpacked
from .grad_checkpoint import CheckpointPart, checkpointed
from .objectives.objective import LossFn, Objective, Packed
from .objectives.preference import REFERENCE
from .objectives.sft import loss_fn
from .reference import Reference, lacks_reference
from .rules import Rules
from .state import bound_params
from .update import Update

Sums = tuple[mx.array, mx.array, Packed]
"""f32[] summed loss, f32[] what it is divided by, and what an objective measures beside it."""


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
    loss: LossFn | Objective = loss_fn,
    reference: Reference | None = None,
    max_grad_norm: float | None = None,
    lr_multipliers: Mapping[str, float] | None = None,
    undecayed: Collection[str] = (),
    grad_checkpoint: bool = False,
    checkpoint_every: int = 1,
    checkpoint_part: CheckpointPart = "layer",
    seed: int = 0,
    rules: Rules | None = None,
    compiled: bool = True,
) -> "CompiledStep":
    """Make the training step.

    Gradients of the summed loss are added over the microbatches and divided once, by the number of supervised
    tokens of them all (of an objective, by the sum of its counts), then clipped by their global norm. Where the loss or
    the norm is not finite, the parameters stay as they were, and the optimizer takes a gradient of zero: nothing that
    is not a number gets into a state.

    Args:
        backbone: The model.
        optimizer: As `make_optimizer` makes it; its state travels in `TrainState`.
        loss: A sum over tokens, as `vlora.loss_fn`, or an `Objective` of their log-probabilities.
        reference: What an objective compares with, where batches do not bring its log-probabilities.
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
    return CompiledStep(
        backbone,
        loss,
        Update(optimizer, max_grad_norm, lr_multipliers or {}, frozenset(undecayed)),
        backbone.checkpoint_modules(checkpoint_every, checkpoint_part) if grad_checkpoint else ((), ()),
        KEYS[(rules or Rules()).dropout_keys](seed),
        reference=reference,
        compiled=compiled,
    )


class CompiledStep:
    """The step that `make_train_step` makes."""

    def __init__(
        self,
        backbone: Backbone,
        loss: LossFn | Objective,
        update: Update,
        checkpoint_modules: tuple[Sequence[nn.Module], Sequence[nn.Module]],
        make_key: MakeKey,
        *,
        reference: Reference | None = None,
        compiled: bool,
    ) -> None:
        """Compile it; the arguments are explained at `make_train_step`."""
        self.n_traces, self.reference = 0, reference
        self.backbone, self.loss, self.make_key = backbone, loss, make_key
        self.checkpointed, self.checkpointed_in_tower = checkpoint_modules
        self.embed_names = backbone.embed_param_names()
        self._update = update
        self._known: Unpacked | None = None
        self._compute_dtypes: dict[str, mx.Dtype] | None = None
        wrap: Callable[..., Any] = mx.compile if compiled and backbone.is_traceable else lambda function: function
        self.grad_step: Callable[..., tuple[Sums, Params, Tree]] = wrap(self._microbatch_gradients)
        self._apply = wrap(update.apply)

    def __call__(
        self, state: TrainState, microbatches: Batch | Sequence[Batch], learning_rate: float
    ) -> tuple[TrainState, StepOutput]:
        """Take one optimizer step over all supervised tokens of the microbatches."""
        total = self.begin(state)
        for batch in as_batches(microbatches):
            total.add(batch, self.grad_step(*total.arguments(batch)))
        rate = mx.array(learning_rate, dtype=mx.float32)
        given = state._replace(params=total.packed)
        new, packed_params, norm = self._apply(given, total.gradients, total.loss, total.count, rate)
        # In the order that they came in: another one would be traced once more.
        new = new._replace(params={name: new.params[name] for name in state.params})
        self._known = self._update.packing.remember(packed_params, new.params)
        return new, total.output(norm)

    def begin(self, state: TrainState) -> "_Accumulation":
        """Begin to add up the gradients of a state."""
        self._update.packing = FlatParams.of(state.params, self._update.optimizer)
        packed = self._update.packing.pack(state.params, self._known)
        return _Accumulation(self, state, packed)

    def unpack(self, gradients: Params) -> Params:
        """Give summed gradients one by one."""
        return self._update.packing.unpack(gradients) if FLAT in gradients else gradients

    def _microbatch_gradients(
        self, given: Params, inputs: Inputs, targets: Targets, key: mx.array
    ) -> tuple[Sums, Params, Tree]:
        """Find sums, gradients and the inputs' gradients; gradients are packed if the parameters are."""
        self.n_traces += 1
        if self.reference is not None and lacks_reference(self.loss, targets):
            with self.backbone.overrides():
                inputs, targets = self.reference.completed(inputs, targets)
        packing = self._update.packing if FLAT in given else FlatParams({})
        params = packing.unpack(given, self._find_compute_dtypes())
        objective = functools.partial(
            language_model_loss,
            backbone=self.backbone,
            loss=self.loss,
            inputs=inputs,
            targets=targets,
            is_trained=True,
        )
        # Around the backward pass too: a checkpointed layer runs its forward again there.
        # Corrections before: what is recomputed is what they made of a part.
        with (
            dropout_keys(self.backbone.module, key),
            self.backbone.overrides(),
            checkpointed(self.checkpointed) if self.checkpointed else nullcontext(),
        ):
            if self.embed_names:
                differentiate = mx.value_and_grad(objective, argnums=(0, 1))
                sums, (gradients, cotangents) = differentiate(params, inputs.differentiable)
            else:
                sums, gradients = mx.value_and_grad(objective)(params, inputs.differentiable)
                cotangents = {}
        masters = {name: value.astype(given[name].dtype) for name, value in packing.pack(gradients).items()}
        return sums, masters, cotangents

    def _find_compute_dtypes(self) -> dict[str, mx.Dtype]:
        """Find the type to which packed parameters are cast together; the head's gradients are added up in float32."""
        if self._compute_dtypes is None:
            head = self.backbone.head_names() if self.backbone.has_separable_head else frozenset()
            dtypes = compute_dtypes(self.backbone.module)
            self._compute_dtypes = {name: dtype for name, dtype in dtypes.items() if name not in head}
        return self._compute_dtypes


@attrs.define(eq=False)
class _Accumulation:
    """The gradients of a step's microbatches, added up one after the other.

    Attributes:
        step: The step.
        state: What the gradients are of.
        packed: Its parameters, the small ones packed.
        gradients: Their summed gradients; packed too, unless some have to be added to one by one.
        loss: f32[], summed.
        count: f32[], what the sums are divided by.
        metrics: What an objective measures beside the loss, summed.
        n_supervised: Supervised targets; not counted where `count` is their number.
    """

    step: CompiledStep
    state: TrainState
    packed: Params
    gradients: Params = attrs.field(factory=dict, init=False)
    loss: mx.array = attrs.field(factory=lambda: mx.array(0.0), init=False)
    count: mx.array = attrs.field(factory=lambda: mx.array(0.0), init=False)
    metrics: Packed = attrs.field(default=(), init=False)
    n_supervised: int = attrs.field(default=0, init=False)
    _n_added: int = attrs.field(default=0, init=False)

    def arguments(self, batch: Batch) -> tuple[Params, Inputs, Targets, mx.array]:
        """Embed a microbatch: what its gradients are computed from."""
        if self._n_added:
            # One microbatch's activations at a time: otherwise all of them are alive at once.
            mx.async_eval(self.gradients, self.loss, self.count)
        backbone = self.step.backbone
        with self._bound():
            inputs = Inputs(batch.tokens, *backbone.embed(batch))
        key = self.step.make_key(self._n_added, self.state.step)
        given = self.state.params if self.step.embed_names else self.packed
        return given, inputs, targets_for(self.step.loss, batch, self.step.reference), key

    def add(self, batch: Batch, found: tuple[Sums, Params, Tree]) -> None:
        """Add what was found for a microbatch, and carry its inputs' gradients on."""
        (loss, count, metrics), gradients, cotangents = found
        if self.step.embed_names:
            with self._bound():
                carried = self.step.backbone.embed_vjp(batch, cotangents, self.step.checkpointed_in_tower)
            for name, gradient in carried.items():
                gradients[name] = gradients[name] + gradient.astype(mx.float32)
        self.gradients = {k: self.gradients[k] + gradients[k] for k in gradients} if self._n_added else gradients
        self.loss, self.count = self.loss + loss, self.count + count
        self.metrics = tuple(map(mx.add, self.metrics, metrics)) if self._n_added else metrics
        if self._has_objective:
            self.n_supervised += batch.n_supervised
        self._n_added += 1

    def output(self, norm: mx.array) -> StepOutput:
        """Give what was measured: sums, counts and the norm of the mean gradient."""
        n_supervised = mx.array(float(self.n_supervised)) if self._has_objective else self.count
        loss = self.step.loss
        metrics = loss.unpack(self.metrics) if isinstance(loss, Objective) else {}
        return StepOutput(self.loss, n_supervised, norm, self.count, metrics)

    @property
    def _has_objective(self) -> bool:
        """Whether what is minimised is no sum over tokens, so that its terms need not be tokens."""
        return isinstance(self.step.loss, Objective)

    def _bound(self) -> Any:
        names = self.step.embed_names
        return bound_params(self.step.backbone.module, {name: self.state.params[name] for name in names})


def as_batches(microbatches: Batch | Sequence[Batch]) -> list[Batch]:
    """Give the microbatches of a step, which may be a single one."""
    return [cast("Batch", microbatches)] if isinstance(microbatches, Batch) else list(microbatches)


def read_metrics(metrics: Mapping[str, tuple[mx.array, mx.array]]) -> dict[str, tuple[float, float]]:
    """Wait for what was measured, and give it as numbers."""
    return {name: (float(total), float(count)) for name, (total, count) in metrics.items()}


def targets_for(loss: LossFn | Objective, batch: Batch, reference: Reference | None = None) -> Targets:
    """Give the targets as a loss needs them: of a sum over tokens the number of examples is no part of the trace.

    Raises:
        BatchError: An objective reads a column that the batch's examples do not have.
    """
    targets = batch.targets
    if not isinstance(loss, Objective):
        empty = mx.zeros((0,))
        return targets._replace(example=empty, example_weights=empty, group=empty, columns={})
    missing = [name for name in loss.columns if name not in targets.columns]
    if reference is None and lacks_reference(loss, targets):
        missing.append(REFERENCE)
    if missing:
        source = batch.rows[0].source if batch.rows else "a batch"
        msg = f"{source}: the objective reads the columns {missing}, which the example lacks; set Example.columns"
        raise BatchError(msg)
    return targets
