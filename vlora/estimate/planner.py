"""The memory that a recipe's training step needs, part by part, predicted from shapes; no weights are loaded.

The model is built without its weights, the recipe's step is traced, and `vlora.estimate.liveness` finds the peak
memory of the traced graph.
"""

import os
from collections.abc import Iterable
from typing import Any

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from .. import models
from ..build import make_recipe_step
from ..data.collate import collate
from ..errors import OutOfMemoryError
from ..memory.command_buffers import find_buffer_limits
from ..memory.limits import device_kind, naming_shortage
from ..recipe.resources import MemorySection
from ..recipe.schema import Recipe
from ..train.flat_params import FlatParams
from ..train.optimizers import make_optimizer
from ..train.reference import make_reference
from ..train.state import init_state
from ..types import Batch, TrainState
from .comparing import compare_blanks, join_rows
from .graph import Graph
from .liveness import Peak, Queue, peak_memory
from .longest import blank_example
from .simplify import compile_graph
from .trace import trace_embedding, trace_step

N_TASKS = 11
"""Command buffers that MLX queues ahead of a device: its MAX_ACTIVE_TASKS, and the one that it fills."""

DISPATCHES_OF_A_CPU = 10
"""Dispatches per command buffer on a CPU: MLX's DISPATCHES_PER_TASK."""

UNPLANNABLE = 1 << 62
"""Bytes returned for a step with arrays too large for MLX: more than any device has."""


@attrs.define(eq=False)
class Planner:
    """A recipe's model without weights, and the state of its training.

    Attributes:
        recipe: The recipe.
        backbone: The model, trainable as the recipe says.
        limit: Bytes in use beyond which MLX waits for its queue.
        divided: What this device holds of frozen weights that several have divided; None if they are whole.
        state: The state before the first step.
        optimizer: The recipe's.
    """

    recipe: Recipe
    backbone: models.MlxVlmBackbone
    limit: int
    divided: models.DividedBytes | None = None
    state: TrainState = attrs.field(init=False)
    optimizer: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make optimizer and state without computing them."""
        self.optimizer = make_optimizer(self.recipe.optim)
        self.state = init_state(self.backbone, self.optimizer)

    def need(self, n_tokens: int, supervised_share: float) -> int:
        """Predict the peak bytes of a step on rows of text of a length."""
        return self.total(self.rows_of(n_tokens, supervised_share))

    def rows_of(self, n_tokens: int, supervised_share: float) -> Batch:
        """Make a microbatch of rows of text of a length."""
        row = compare_blanks(self.recipe, blank_example(n_tokens, supervised_share))
        return collate(join_rows(self.recipe, [row] * self.recipe.train.batch_size))

    def total(self, batch: Batch) -> int:
        """Predict the peak bytes of a step; `UNPLANNABLE` if an array is too large for MLX."""
        try:
            return sum(self.parts(batch).values())
        except OutOfMemoryError:
            return UNPLANNABLE

    def parts(self, batch: Batch) -> dict[str, int]:
        """Predict the peak memory of a step on a microbatch, in bytes by part.

        Raises:
            OutOfMemoryError: An array of the step is too large for MLX.
        """
        with naming_shortage("planning a step", batch):
            return self._parts(batch)

    def _parts(self, batch: Batch) -> dict[str, int]:
        module = self.backbone.module
        embedded = self.backbone.embed(batch)
        step = trace_step(self.backbone, self.state, batch, embedded, self._make_step)
        graph = compile_graph(step.graph) if self.backbone.is_traceable else step.graph
        peak = self.peak(graph, step.weights)
        weights = sum(value.nbytes for _, value in tree_flatten(module.parameters()))
        trained = sum(value.nbytes for _, value in tree_flatten(module.trainable_parameters()))
        state = sum(nbytes for name, nbytes in peak.alive if name in step.state)
        masters = min(state, sum(value.nbytes for value in self.state.params.values()))
        packed = FlatParams.of(self.state.params, self.optimizer).pack(self.state.params)
        shapes = {(tuple(value.shape), value.nbytes) for value in (*self.state.params.values(), *packed.values())}
        alive = [(graph.arrays[name].shape, nbytes) for name, nbytes in peak.alive if name not in step.state]
        gradients = sum(nbytes for shape, nbytes in alive if (shape, nbytes) in shapes)
        others = [(shape, nbytes) for shape, nbytes in alive if (shape, nbytes) not in shapes]
        head = sum(nbytes for shape, nbytes in others if self._vocabulary() in shape)
        parts = {
            **self._count_frozen(weights - trained),
            "trained weights": masters,
            "optimizer": state - masters,
            # The sum of the earlier microbatches is kept next to this one's.
            "gradients": gradients + masters * (self.recipe.train.gradient_accumulation_steps > 1),
            "head and loss": head,
            "activations": sum(nbytes for _, nbytes in others) - head,
        }
        tower = self._tower_bytes(batch, embedded) - sum(parts[part] for part in ("head and loss", "activations"))
        return parts if tower <= 0 else {**parts, "tower": tower}

    def change(self, nbytes: int) -> int:
        """Give the bytes of something that was traced with whole weights as they are with this device's part."""
        return nbytes if self.divided is None else nbytes - self.divided.n_elsewhere + self.divided.n_gathered

    def _count_frozen(self, nbytes: int) -> dict[str, int]:
        if self.divided is None:
            return {"weights": nbytes}
        return {"weights": nbytes - self.divided.n_elsewhere, "gathered weights": self.divided.n_gathered}

    def peak(self, graph: Graph, weights: Iterable[str]) -> Peak:
        """Find the peak of a graph on this machine; the weights among its inputs are never freed."""
        queue = attrs.evolve(find_queue(self.recipe.memory, is_divided=self.divided is not None), limit=self.limit)
        return peak_memory(graph, held=weights, queue=queue, copies_for_matmul=device_kind() != "metal")

    def _make_step(self, backbone: Any) -> Any:
        reference = make_reference(self.recipe, backbone, self.state.params)
        return make_recipe_step(self.recipe, backbone, self.optimizer, self.state, reference=reference, compiled=False)

    def _tower_bytes(self, batch: Batch, embedded: Any) -> int:
        """Predict the peak memory of embedding and of its gradient, weights excluded."""
        train = self.recipe.train
        checkpoint_modules = (
            self.backbone.checkpoint_modules(train.checkpoint_every, train.checkpoint_part)[1]
            if train.grad_checkpoint
            else ()
        )
        graphs = trace_embedding(self.backbone, batch, embedded[0], checkpoint_modules)
        return max(
            sum(nbytes for _, nbytes in self.peak(compile_graph(graph), weights).alive) for graph, weights in graphs
        )

    def _vocabulary(self) -> int:
        if (written := self.backbone.vocabulary().n_written) is not None:
            return written
        config = self.backbone.module.config
        text = getattr(config, "text_config", None)
        return int(getattr(text, "vocab_size", None) or getattr(config, "vocab_size", None) or 0)


def find_queue(section: MemorySection, *, is_divided: bool = False) -> Queue:
    """Return how far MLX runs ahead of this machine's device in a run of the recipe.

    Args:
        section: The recipe's; only CUDA reads it.
        is_divided: Whether weights are divided among devices.
    """
    kind = device_kind()
    if kind == "cpu":
        return Queue(n_dispatches=DISPATCHES_OF_A_CPU, n_tasks=N_TASKS)
    given = section.max_mb_per_buffer if kind == "cuda" else None
    limits = find_buffer_limits(mx.device_info(), given, os.environ, is_divided=is_divided)
    return Queue(
        n_operations=limits.n_operations,
        n_elements=(limits.n_mb + 1 << 20) - 1,
        n_tasks=N_TASKS,
        counts_buffers=kind == "metal",
    )
