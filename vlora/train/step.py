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
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from ..adapters.attached import compute_dtypes
from ..types import Batch, Inputs, StepOutput, Targets, TrainState
from .accumulation import Accumulation, Found, middle_of
from .arguments import as_batches, check_step, check_training
from .backbone import Backbone, Params
from .chunked_head import language_model_loss
from .dropout import KEYS, MakeKey, dropout_keys
from .flat_params import FLAT, FlatParams, Unpacked
from .grad_checkpoint import CheckpointPart, checkpointed
from .objectives.objective import LossFn, Objective
from .objectives.sft import loss_fn
from .ranks import Ranks
from .reference import Reference, lacks_reference
from .rules import Rules
from .update import Update


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
    ranks: Ranks | None = None,
    compiled: bool = True,
) -> "TrainStep":
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
        ranks: As `open_ranks` gives them: each calls the step with its own microbatches, of which there may be none,
            and all get the same new state. Gradients, losses and counts are added up over them once a step.
        compiled: False runs the same code eagerly.

    Returns:
        `step(state, microbatches, learning_rate)`. Traces once per shape of a batch; nothing in it waits for
        the device, unless there is no microbatch. Where no rank has one, the state but for the step's number stays as
        it was. Behind them it takes numbers to add up over the ranks (`StepOutput.others`).

    Raises:
        TypeError, ValueError: What it or the step is given is of another kind, or no norm or rate to take a step with.
    """
    check_training(optimizer, loss, max_grad_norm, undecayed)
    return TrainStep(
        backbone,
        loss,
        Update(optimizer, max_grad_norm, lr_multipliers or {}, frozenset(undecayed)),
        backbone.checkpoint_modules(checkpoint_every, checkpoint_part) if grad_checkpoint else ((), ()),
        KEYS[(rules or Rules()).dropout_keys](seed),
        ranks or Ranks(),
        reference=reference,
        compiled=compiled,
    )


class TrainStep:
    """A step: `(state, microbatches, learning rate) -> (state, output)`; its parts can be asked for one by one.

    Attributes:
        n_traces: How many shapes have been traced so far.
    """

    def __init__(
        self,
        backbone: Backbone,
        loss: LossFn | Objective,
        update: Update,
        checkpoint_modules: tuple[Sequence[nn.Module], Sequence[nn.Module]],
        make_key: MakeKey,
        ranks: Ranks,
        *,
        reference: Reference | None = None,
        compiled: bool,
    ) -> None:
        """Compile it; the arguments are explained at `make_train_step`."""
        self.n_traces, self.reference = 0, reference
        self.backbone, self.loss, self.make_key, self.ranks = backbone, ranks.share_loss(loss), make_key, ranks
        self.checkpointed, self.checkpointed_in_tower = checkpoint_modules
        self.embed_names = backbone.embed_param_names()
        self._update = update
        self._known: Unpacked | None = None
        self._compute_dtypes: dict[str, mx.Dtype] | None = None
        wrap: Callable[..., Any] = mx.compile if compiled and backbone.is_traceable else lambda function: function
        self.grad_step: Callable[..., Found] = wrap(self._microbatch_gradients)
        self._apply = wrap(update.apply)

    def __call__(
        self,
        state: TrainState,
        microbatches: Batch | Sequence[Batch],
        learning_rate: float,
        others: Sequence[float] = (),
    ) -> tuple[TrainState, StepOutput]:
        """Take one optimizer step over all supervised tokens of the microbatches, those of other ranks included."""
        batches = check_step(state, microbatches, learning_rate)
        return self.update(self.accumulate(state, batches), learning_rate, others)

    @property
    def embeds_ahead(self) -> bool:
        """Whether a microbatch may be embedded before the steps before its own are taken.

        What an embedding that is trained makes of it depends on them, and ranks gather divided weights in one order.
        """
        return not self.embed_names and not self.backbone.gathers

    def embed(self, batch: Batch) -> Inputs:
        """Make the language model's inputs of a microbatch, with the parameters that are bound."""
        return Inputs(batch.tokens, *self.backbone.embed(batch))

    def accumulate(
        self, state: TrainState, microbatches: Batch | Sequence[Batch], first: Inputs | None = None
    ) -> Accumulation:
        """Add up the gradients of the microbatches; `first` is what the first of them was embedded to, if it was."""
        self._update.packing = FlatParams.of(state.params, self._update.optimizer)
        total = Accumulation(self, state, self._update.packing.pack(state.params, self._known))
        for batch in as_batches(microbatches):
            total.add(batch, self.grad_step(*total.arguments(batch, first)))
            first = None
        return total

    def update(
        self, total: Accumulation, learning_rate: float, others: Sequence[float] = ()
    ) -> tuple[TrainState, StepOutput]:
        """Take the step whose gradients have been added up; without rows it is none, and is counted all the same."""
        state = total.state
        total.add_ranks(others)
        if total.is_empty():
            # What the optimizer holds would fade, and move the parameters.
            return state._replace(step=state.step + 1), total.output(mx.array(0.0))
        rate = mx.array(learning_rate, dtype=mx.float32)
        given = state._replace(params=total.packed)
        new, packed_params, norm = self._apply(given, total.gradients, total.loss, total.count, rate)
        # In the order that they came in: another one would be traced once more.
        new = new._replace(params={name: new.params[name] for name in state.params})
        self._known = self._update.packing.remember(packed_params, new.params)
        return new, total.output(norm)

    def pack(self, gradients: Params) -> Params:
        """Pack summed gradients as the optimizer takes them."""
        return gradients if FLAT in gradients else self._update.packing.pack(gradients)

    def unpack(self, gradients: Params) -> Params:
        """Give summed gradients one by one."""
        return self._update.packing.unpack(gradients) if FLAT in gradients else gradients

    def _microbatch_gradients(self, given: Params, inputs: Inputs, targets: Targets, key: mx.array) -> Found:
        """Find what a microbatch adds; its gradients are packed if the parameters are."""
        self.n_traces += 1
        if self.reference is not None and lacks_reference(self.loss, targets):
            with self.backbone.overrides():
                inputs, targets = self.reference.completed(inputs, targets)
        packing = self._update.packing if FLAT in given else FlatParams({})
        params = packing.unpack(given, self._find_compute_dtypes())
        objective = functools.partial(
            language_model_loss, backbone=self.backbone, loss=self.loss, inputs=inputs, targets=targets, is_trained=True
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
        # Of what is not packed the gradients are outputs already, and one array should not be two outputs.
        halfway = (gradients[middle_of(tuple(packing.shapes))],) if packing.shapes else ()
        return sums, masters, cotangents, halfway

    def _find_compute_dtypes(self) -> dict[str, mx.Dtype]:
        """Find the type to which packed parameters are cast together; the head's gradients are added up in float32."""
        if self._compute_dtypes is None:
            head = self.backbone.head_names() if self.backbone.has_separable_head else frozenset()
            dtypes = compute_dtypes(self.backbone.module)
            self._compute_dtypes = {name: dtype for name, dtype in dtypes.items() if name not in head}
        return self._compute_dtypes
