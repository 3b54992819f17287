"""Predicts what a recipe needs: memory by part and by phase, and the longest row that fits. No weights are loaded."""

import math
from collections.abc import Iterator, Mapping, Sequence

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
from .planner import UNPLANNABLE, Planner

SHORTEST, LONGEST = 128, 2**18
"""Rows that are tried, in tokens."""

CLOSE, MOST_TRIES = 16, 8
"""The longest row that fits is looked for until one longer by a sixteenth does not, or for as many tries."""

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
    recipe: Recipe,
    memory_gb: float | None = None,
    *,
    n_rows: int | None = None,
    with_longest: bool = True,
    n_devices: int = 1,
) -> Plan:
    """Plan a recipe's run.

    Args:
        recipe: The recipe.
        memory_gb: Gigabytes (1e9 bytes) available; by default the recipe's limit, or the device's memory.
        n_rows: How many of the first rows are looked at for the longest; None for all of them.
        with_longest: Find the longest rows of text that fit, which takes several times as long as the rest.
        n_devices: Devices of the run. Each has microbatches of its own; what is planned is the memory of one of them.

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
    planner = make_planner(recipe, backbone, available, n_devices)
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


def make_planner(recipe: Recipe, backbone: models.MlxVlmBackbone, limit: int, n_devices: int = 1) -> Planner:
    """Make what plans a recipe's steps on one of several devices.

    Args:
        recipe: The recipe.
        backbone: Its model, without weights.
        limit: Bytes in use beyond which MLX waits for its queue.
        n_devices: Devices of the run.

    Raises:
        ModelError: The devices are to divide weights, and the model has none to divide.
    """
    if recipe.train.shard == "none" or n_devices == 1:
        return Planner(recipe, backbone, limit)
    return Planner(recipe, backbone, limit, models.find_division(backbone).count(n_devices))


def _plan_phases(planner: Planner, rows: LongestRows, options: models.AnswerOptions) -> Iterator[Phase]:
    """Plan what a run does beside its steps."""
    if rows.valid is not None:
        yield plan_validation(planner, rows.valid, rows.valid_source)
    if rows.prompts:
        yield plan_answers(planner, rows.prompts, options.max_new_tokens, rows.prompts_source)


def _find_longest(planner: Planner, share: float, memory: int) -> int | None:
    """Find about the longest rows of text that fit, with few traces.

    The need grows at least as fast as the length. So a line through two lengths goes on too far rather than not far
    enough, and between two lengths it lies above the need, except for chance effects of the queue.
    """
    fitting: list[tuple[int, int]] = []
    length, needed = SHORTEST, UNPLANNABLE
    try:
        while (needed := planner.need(length + 1, share)) <= memory:
            fitting.append((length, needed))
            if length == LONGEST:
                return LONGEST
            length = min(LONGEST, max(2 * length, _solve([(0, 0), *fitting][-2:], memory)))
        for number in range(MOST_TRIES):
            if not fitting or length - fitting[-1][0] <= max(SMALLEST_BUCKET, fitting[-1][0] // CLOSE):
                break
            # In turns: a curve finds most needs at once, and a length in the middle finds any.
            tried = math.isqrt(fitting[-1][0] * length) // SMALLEST_BUCKET * SMALLEST_BUCKET
            if needed != UNPLANNABLE and number % 2 == 0:
                tried = _solve([*fitting[-2:], (length, needed)], memory)
            if not fitting[-1][0] < tried < length:
                break
            found = planner.need(tried + 1, share)
            if found <= memory:
                fitting.append((tried, found))
            else:
                length, needed = tried, found
    except BatchError:
        return None
    return fitting[-1][0] if fitting else 0


def _solve(points: Sequence[tuple[int, int]], memory: int) -> int:
    """Find the length, in whole buckets, that needs the memory on the curve through two or three lengths and needs."""
    lengths, needs = np.array(points, dtype=np.float64).T
    *bent, slope, _ = np.polyfit(lengths - lengths[-1], needs, len(points) - 1)
    curvature, missing = (bent[0] if bent else 0.0), memory - needs[-1]
    root = np.sqrt(max(0.0, slope * slope + 4 * curvature * missing))
    # The same root as the usual formula gives, which divides by a curvature that may be none.
    fits = int(lengths[-1] + 2 * missing / max(1.0, slope + root))
    return fits - fits % SMALLEST_BUCKET
