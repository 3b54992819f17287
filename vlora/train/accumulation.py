"""The gradients of a step, added up over its microbatches and its ranks."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import BatchError
from ..types import Batch, Inputs, StepOutput, Targets, TrainState, Tree
from .backbone import Backbone, Params
from .dropout import MakeKey
from .objectives.objective import LossFn, Objective, Packed
from .objectives.preference import REFERENCE
from .ranks import KEY_STRIDE, Ranks
from .reference import Reference, lacks_reference
from .state import bound_params

Sums = tuple[mx.array, mx.array, Packed]
"""f32[] summed loss, f32[] what it is divided by, and what an objective measures beside it."""

Found = tuple[Sums, Params, Tree, tuple[mx.array, ...]]
"""Of a microbatch: sums, gradients, the inputs' gradients; and of packed gradients the middle one by itself."""


class Step(Protocol):
    """What is asked of a step; `make_train_step` makes one."""

    backbone: Backbone
    loss: LossFn | Objective
    make_key: MakeKey
    ranks: Ranks
    reference: Reference | None
    embed_names: frozenset[str]
    checkpointed_in_tower: Sequence[nn.Module]

    def embed(self, batch: Batch) -> Inputs:
        """Make the language model's inputs of a microbatch."""

    def pack(self, gradients: Params) -> Params:
        """Pack summed gradients as the optimizer takes them."""


@attrs.define(eq=False)
class Accumulation:
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
        others: f32[] each, further numbers, added up over the ranks.
        n_added: Microbatches that were added: stand-ins are not.
        n_added_by_all: f32[], those of all ranks.
        halfway: Of the last microbatch the gradient that is known when half of the layers have had their backward pass.
    """

    step: Step
    state: TrainState
    packed: Params
    gradients: Params = attrs.field(factory=dict, init=False)
    loss: mx.array = attrs.field(factory=lambda: mx.array(0.0), init=False)
    count: mx.array = attrs.field(factory=lambda: mx.array(0.0), init=False)
    metrics: Packed = attrs.field(default=(), init=False)
    n_supervised: mx.array | int = attrs.field(default=0, init=False)
    others: tuple[mx.array, ...] = attrs.field(default=(), init=False)
    n_added: int = attrs.field(default=0, init=False)
    n_added_by_all: mx.array = attrs.field(factory=lambda: mx.array(0.0), init=False)
    halfway: tuple[mx.array, ...] = attrs.field(default=(), init=False)
    _n_run: int = attrs.field(default=0, init=False)

    def arguments(self, batch: Batch, inputs: Inputs | None = None) -> tuple[Params, Inputs, Targets, mx.array]:
        """Embed a microbatch, unless that is done: what its gradients are computed from."""
        if self._n_run:
            # One microbatch's activations at a time: otherwise all of them are alive at once.
            mx.async_eval(self.gradients, self.loss, self.count)
        if inputs is None:
            with self._bound():
                inputs = self.step.embed(batch)
        key = self.step.make_key(self._n_run + KEY_STRIDE * self.step.ranks.rank, self.state.step)
        given = self.state.params if self.step.embed_names else self.packed
        return given, inputs, targets_for(self.step.loss, batch, self.step.reference), key

    def add(self, batch: Batch, found: Found) -> None:
        """Add what was found for a microbatch, and carry its inputs' gradients on."""
        (loss, count, metrics), gradients, cotangents, halfway = found
        self._n_run += 1
        if self._gathers:
            # Ranks gather alike only if all run back to their inputs, whether or not their rows have a use for it.
            back = [*gradients.values(), *(value for _, value in tree_flatten(cotangents))]
            loss, count = mx.depends([loss, count], back)
        if batch.is_stand_in:
            # It has to run, and nothing of it is added.
            self.loss, self.count = mx.depends([self.loss, self.count], [loss, *gradients.values()])
            return
        self.halfway = halfway or (gradients[middle_of(tuple(gradients))],)
        is_first = not self.gradients
        self.n_added += 1
        if self.step.embed_names:
            with self._bound():
                carried = self.step.backbone.embed_vjp(batch, cotangents, self.step.checkpointed_in_tower)
            for name, gradient in carried.items():
                gradients[name] = gradients[name] + gradient.astype(mx.float32)
        self.gradients = gradients if is_first else {k: self.gradients[k] + gradients[k] for k in gradients}
        self.loss, self.count = self.loss + loss, self.count + count
        self.metrics = metrics if is_first else tuple(map(mx.add, self.metrics, metrics))
        if self._has_objective:
            self.n_supervised += batch.n_supervised

    def add_ranks(self, others: Sequence[float]) -> None:
        """Add up what all ranks have found; a rank whose rows could not be learned from has added nothing."""
        ranks = self.step.ranks
        self.metrics = self.metrics or self._no_metrics()
        if ranks.size == 1:
            self.others = tuple(mx.array(number, dtype=mx.float32) for number in others)
            return
        if self._gathers:
            # Before the sums are sent, so that what layers gather comes first, in whichever order gradients come.
            mx.async_eval(self.gradients, self.loss, self.count)
        found = self.gradients or {name: mx.zeros(value.shape) for name, value in self.packed.items()}
        measured = [number for array in self.metrics for number in array.flatten()]
        numbers = (self.loss, self.count, self.n_supervised, self.n_added, *others, *measured)
        self.gradients, sums = ranks.sum_step(self.step.pack(found), numbers)
        self.loss, self.count, self.n_supervised, self.n_added_by_all, *rest = sums
        self.others = tuple(rest[: len(others)])
        self.metrics = tuple(mx.stack(rest[len(others) :]).reshape(array.shape) for array in self.metrics)

    def is_empty(self) -> bool:
        """Whether no rank has added anything; only a rank that has added nothing itself waits for the others."""
        if self.n_added or self.step.ranks.size == 1:
            return not self.n_added
        with self.step.ranks.watched():
            return float(self.n_added_by_all) == 0

    def _no_metrics(self) -> Packed:
        """Give what an objective measures of no row."""
        loss = self.step.loss
        return (mx.zeros((len(loss.metrics), 2)),) if isinstance(loss, Objective) and loss.metrics else ()

    def output(self, norm: mx.array) -> StepOutput:
        """Give what was measured: sums, counts and the norm of the mean gradient."""
        n_supervised = mx.array(self.n_supervised, dtype=mx.float32) if self._has_objective else self.count
        loss = self.step.loss
        metrics = loss.unpack(self.metrics) if isinstance(loss, Objective) else {}
        return StepOutput(self.loss, n_supervised, norm, self.count, metrics, self.others)

    @property
    def _gathers(self) -> bool:
        """Whether layers gather weights that are divided among ranks."""
        return self.step.backbone.gathers

    @property
    def _has_objective(self) -> bool:
        """Whether what is minimised is no sum over tokens, so that its terms need not be tokens."""
        return isinstance(self.step.loss, Objective)

    def _bound(self) -> Any:
        names = self.step.embed_names
        return bound_params(self.step.backbone.module, {name: self.state.params[name] for name in names})


@functools.cache
def middle_of(names: tuple[str, ...]) -> str:
    """Give the name in the middle, in the order in which layers are numbered."""
    ordered = sorted(
        names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
    return ordered[len(ordered) // 2]


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
