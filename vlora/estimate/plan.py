"""Predicts what a recipe needs: parameters, memory by part, the longest row that fits. No weights are loaded.

The model is built without its weights, the recipe's step is traced on rows of the recipe, and `vlora.estimate.liveness`
finds the peak memory of the traced graph.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from .. import models
from ..build import find_model, load_data, load_model, make_recipe_step
from ..cuts import CutCounts
from ..data.collate import collate, collate_packed
from ..data.examples import first_examples, is_skipped
from ..data.prefetch import count_workers
from ..data.rows import RowDataset
from ..errors import BatchError, OutOfMemoryError, SampleError, VloraError
from ..memory.command_buffers import find_buffer_limits
from ..memory.limits import GIGA, device_kind, device_memory, naming_shortage
from ..ops.buckets import SMALLEST_BUCKET
from ..ops.parameters import count_parameters
from ..recipe.resources import MemorySection
from ..recipe.schema import Recipe
from ..train.flat_params import FlatParams
from ..train.optimizers import make_optimizer
from ..train.state import init_state
from ..types import Batch, Example, TrainState
from .graph import Graph
from .liveness import Peak, Queue, peak_memory
from .simplify import compile_graph
from .trace import trace_embedding, trace_step

HALF = 0.5

LONGEST = 2**18
"""Longest row that is tried, in tokens."""

N_TASKS = 11
"""Command buffers that MLX queues ahead of a device: its MAX_ACTIVE_TASKS, and the one that it fills."""

OPERATIONS_OF_A_CPU = 3
"""Operations per command buffer on a CPU; measured, since MLX counts about four for each operation there."""


UNPLANNABLE = 1 << 62
"""Bytes returned for a step with arrays too large for MLX: more than any device has."""


@attrs.frozen(kw_only=True)
class Plan:
    """The resources that a recipe needs. Sizes in bytes.

    Attributes:
        model_type: mlx-vlm's name of the architecture.
        n_params: Parameters of the model.
        n_trainable: Those that are trained.
        batch_size: Rows of a microbatch.
        n_tokens: Tokens of each, padding included.
        n_supervised: Positions of the microbatch at which the head runs.
        rows: The source of those rows.
        parts: Memory in use at the peak, by part.
        memory: The device's memory, or what the recipe or the caller allows.
        longest: Tokens of the longest rows of text of which a full microbatch fits; None if unknown.
        batch: The microbatch that was planned.
    """

    model_type: str
    n_params: int
    n_trainable: int
    batch_size: int
    n_tokens: int
    n_supervised: int
    rows: str
    parts: Mapping[str, int]
    memory: int
    longest: int | None
    batch: Batch = attrs.field(repr=False, eq=False)

    @property
    def peak(self) -> int:
        """Peak memory in bytes."""
        return sum(self.parts.values())


@attrs.define(eq=False)
class Planner:
    """A recipe's model without weights, and the state of its training.

    Attributes:
        recipe: The recipe.
        backbone: The model, trainable as the recipe says.
        limit: Bytes in use beyond which MLX waits for its queue.
        state: The state before the first step.
        optimizer: The recipe's.
    """

    recipe: Recipe
    backbone: models.MlxVlmBackbone
    limit: int
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
        return collate([blank_example(n_tokens, supervised_share)] * self.recipe.train.batch_size)

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
        peak = self._peak(graph, step.weights)
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
            "weights": weights - trained,
            "trained weights": masters,
            "optimizer": state - masters,
            # The sum of the earlier microbatches is kept next to this one's.
            "gradients": gradients + masters * (self.recipe.train.gradient_accumulation_steps > 1),
            "head and loss": head,
            "activations": sum(nbytes for _, nbytes in others) - head,
        }
        tower = self._tower_bytes(batch, embedded) - sum(parts[part] for part in ("head and loss", "activations"))
        return parts if tower <= 0 else {**parts, "tower": tower}

    def _peak(self, graph: Graph, weights: Iterable[str]) -> Peak:
        queue = attrs.evolve(find_queue(self.recipe.memory), limit=self.limit)
        return peak_memory(graph, held=weights, queue=queue, copies_for_matmul=device_kind() != "metal")

    def _make_step(self, backbone: Any) -> Any:
        return make_recipe_step(self.recipe, backbone, self.optimizer, self.state, compiled=False)

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
            sum(nbytes for _, nbytes in self._peak(compile_graph(graph), weights).alive) for graph, weights in graphs
        )

    def _vocabulary(self) -> int:
        if (written := self.backbone.vocabulary().n_written) is not None:
            return written
        config = self.backbone.module.config
        text = getattr(config, "text_config", None)
        return int(getattr(text, "vocab_size", None) or getattr(config, "vocab_size", None) or 0)


def make_plan(recipe: Recipe, memory_gb: float | None = None, *, n_rows: int | None = None) -> Plan:
    """Plan a recipe's run.

    Args:
        recipe: The recipe.
        memory_gb: Gigabytes (1e9 bytes) available; by default the recipe's limit, or the device's memory.
        n_rows: How many of the first rows are looked at for the longest; None for all of them.

    Raises:
        VloraError: The recipe names a model, layers or an adapter that do not exist.
        OutOfMemoryError: A microbatch is too large for MLX's arrays.
    """
    files = find_model(recipe)
    backbone, _ = load_model(recipe, files, is_abstract=True)
    batch, origin = _sample_rows(recipe, n_rows)
    memory = memory_gb or recipe.memory.limit_gb
    available = device_memory() if memory is None else int(memory * GIGA)
    planner = Planner(recipe, backbone, available)
    share = float(np.mean([example.supervised.mean() for example in batch.rows]))
    module = backbone.module
    return Plan(
        model_type=files.model_type,
        n_params=count_parameters(module),
        n_trainable=sum(value.size for _, value in tree_flatten(module.trainable_parameters())),
        batch_size=recipe.train.batch_size,
        n_tokens=batch.tokens.shape[1],
        n_supervised=batch.targets.positions.size,
        rows=origin,
        parts=planner.parts(batch),
        memory=available,
        longest=_find_longest(planner, share, available),
        batch=batch,
    )


def blank_example(n_tokens: int, supervised_share: float) -> Example:
    """Make a row of text of a length, its last tokens supervised."""
    supervised = np.arange(n_tokens) >= n_tokens - max(1, round(n_tokens * supervised_share))
    supervised[0] = False
    return Example(
        source="a row of the plan",
        tokens=np.full(n_tokens, 2, dtype=np.int32),
        supervised=supervised,
        placeholders=np.zeros(n_tokens, dtype=np.bool_),
    )


def _sample_rows(recipe: Recipe, n_rows: int | None = None) -> tuple[Batch, str]:
    """Make a full microbatch of the longest rows, and describe where they come from."""
    size, length = recipe.train.batch_size, recipe.data.max_seq_length
    if recipe.train.batching == "packed":
        length = recipe.train.pack_length or length
        pack = [blank_example(length // 2, HALF)] * 2
        return collate_packed([pack] * size, size), f"full packs of {length} tokens, half of them supervised"
    skipped: list[SampleError] = []

    def skip(_: int, error: SampleError) -> None:
        if not is_skipped(error, recipe.data):
            raise error
        skipped.append(error)

    try:
        data = load_data(recipe)
        rows = data.train if n_rows is None else attrs.evolve(data.train, indices=data.train.indices[:n_rows])
        longest = attrs.evolve(rows, indices=_by_length(rows, data.encoder, recipe.data.workers)[: 2 * size])
        examples = list(first_examples(longest, len(longest), data.encoder, skip))[:size]
        if not examples:
            raise skipped[-1]
    except VloraError as error:
        reason = str(error).splitlines()[0]
        return (
            collate([blank_example(length, HALF)] * size, size),
            f"of data.max_seq_length, half of it supervised, since rows could not be read: {reason}",
        )
    cuts = CutCounts().add([example.cut for example in examples if example.cut is not None])
    told = f"; of those {cuts.describe()}" if cuts.n_rows else ""
    which = "all" if len(rows) == len(data.train) else "the first"
    return collate(examples, size), f"the longest of {which} {len(rows):,} rows{told}"


def _by_length(rows: RowDataset, encoder: models.Encoder, n_workers: int | None) -> list[int]:
    """Return row numbers, the longest row first, from text and image headers alone; no image is decoded."""
    measure = models.LengthEstimator(encoder)

    def find_length(index: int) -> int:
        try:
            return measure(rows[index])
        except SampleError:
            # The run decides about such rows; here they come last.
            return -1

    with ThreadPoolExecutor(max(1, count_workers(n_workers))) as pool:
        lengths = list(pool.map(find_length, range(len(rows)), chunksize=64))
    return [int(rows.indices[place]) for place in sorted(range(len(rows)), key=lambda place: -lengths[place])]


def _find_longest(planner: Planner, share: float, memory: int) -> int | None:
    """Find the longest rows of text that fit: by doubling, then on a line between the last two lengths tried.

    The need grows at least as fast as the length, so the line lies above it, except for chance effects of the queue.
    """
    length, below = 128, (0, 0)
    try:
        while length <= LONGEST:
            found = planner.need(length + 1, share)
            if found > memory:
                break
            below = length, found
            length *= 2
        else:
            return LONGEST
    except BatchError:
        return None
    if not below[0]:
        return 0
    fits = below[0] + int((memory - below[1]) * (length - below[0]) / (found - below[1]))
    fits -= fits % SMALLEST_BUCKET
    while fits > below[0] and planner.need(fits + 1, share) > memory:
        fits -= max(SMALLEST_BUCKET, (fits - below[0]) // 4)
    return max(fits, below[0])


def find_queue(section: MemorySection) -> Queue:
    """Return how far MLX runs ahead of this machine's device in a run of the recipe.

    Args:
        section: The recipe's; only CUDA reads it.
    """
    kind = device_kind()
    if kind == "cpu":
        return Queue(n_operations=OPERATIONS_OF_A_CPU, n_tasks=N_TASKS)
    given = section.max_mb_per_buffer if kind == "cuda" else None
    limits = find_buffer_limits(mx.device_info(), given, os.environ)
    return Queue(
        n_operations=limits.n_operations,
        n_elements=(limits.n_mb + 1 << 20) - 1,
        n_tasks=N_TASKS,
        counts_buffers=kind == "metal",
    )
