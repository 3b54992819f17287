"""Predicts what a recipe needs: memory by part and by phase, and the longest row that fits. No weights are loaded."""

from collections.abc import Iterator, Mapping

import attrs
import numpy as np
from mlx.utils import tree_flatten

from .. import models
from ..build import find_model, load_model
from ..errors import BatchError
from ..memory.limits import GIGA, device_memory
from ..ops.buckets import SMALLEST_BUCKET
from ..ops.parameters import count_parameters
from ..recipe.schema import Recipe
from ..types import Batch
from .longest import LongestRows, find_longest_rows
from .phases import Phase, plan_answers, plan_validation
from .planner import Planner

LONGEST = 2**18
"""Longest row that is tried, in tokens."""

TRAINING = "training step"
"""The phase of the steps."""


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
        parts: Memory in use at the peak of a step, by part.
        phases: Validation and answers, where there are some.
        memory: The device's memory, or what the recipe or the caller allows.
        longest: Tokens of the longest rows of text of which a full microbatch fits; None if unknown or not
            asked for.
        longest_rows: The rows that were planned.
    """

    model_type: str
    n_params: int
    n_trainable: int
    batch_size: int
    n_tokens: int
    n_supervised: int
    rows: str
    parts: Mapping[str, int]
    phases: tuple[Phase, ...] = ()
    memory: int
    longest: int | None
    longest_rows: LongestRows = attrs.field(repr=False, eq=False)

    @property
    def batch(self) -> Batch:
        """The microbatch that was planned."""
        return self.longest_rows.train

    @property
    def step_peak(self) -> int:
        """Peak memory of a training step in bytes."""
        return sum(self.parts.values())

    @property
    def peak(self) -> int:
        """Peak memory of the run in bytes."""
        return max(self.step_peak, *(phase.nbytes for phase in self.phases), 0)

    @property
    def fullest(self) -> str:
        """Name the phase that has it."""
        found = max(self.phases, key=lambda phase: phase.nbytes, default=None)
        return TRAINING if found is None or found.nbytes <= self.step_peak else found.name


def make_plan(
    recipe: Recipe, memory_gb: float | None = None, *, n_rows: int | None = None, with_longest: bool = True
) -> Plan:
    """Plan a recipe's run.

    Args:
        recipe: The recipe.
        memory_gb: Gigabytes (1e9 bytes) available; by default the recipe's limit, or the device's memory.
        n_rows: How many of the first rows are looked at for the longest; None for all of them.
        with_longest: Find the longest rows of text that fit, which takes several times as long as the rest.

    Raises:
        VloraError: The recipe names a model, layers or an adapter that do not exist.
        OutOfMemoryError: A microbatch is too large for MLX's arrays.
    """
    files = find_model(recipe)
    backbone, _ = load_model(recipe, files, is_abstract=True)
    options = models.answer_options(recipe, 0)
    rows = find_longest_rows(recipe, options, n_rows)
    memory = memory_gb or recipe.memory.limit_gb
    available = device_memory() if memory is None else int(memory * GIGA)
    planner = Planner(recipe, backbone, available)
    share = float(np.mean([example.supervised.mean() for example in rows.train.rows]))
    module = backbone.module
    return Plan(
        model_type=files.model_type,
        n_params=count_parameters(module),
        n_trainable=sum(value.size for _, value in tree_flatten(module.trainable_parameters())),
        batch_size=recipe.train.batch_size,
        n_tokens=rows.train.tokens.shape[1],
        n_supervised=rows.train.targets.positions.size,
        rows=rows.train_source,
        parts=planner.parts(rows.train),
        phases=tuple(_plan_phases(planner, rows, options)),
        memory=available,
        longest=_find_longest(planner, share, available) if with_longest else None,
        longest_rows=rows,
    )


def _plan_phases(planner: Planner, rows: LongestRows, options: models.AnswerOptions) -> Iterator[Phase]:
    """Plan what a run does beside its steps."""
    if rows.valid is not None:
        yield plan_validation(planner, rows.valid, rows.valid_source)
    if rows.prompts:
        yield plan_answers(planner, rows.prompts, options.max_new_tokens, rows.prompts_source)


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
