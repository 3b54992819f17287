"""What to lower when there was no memory: found by planning what failed with smaller numbers, until it fits.

The run that failed has to be released before anything is planned.
"""

import time
from collections.abc import Iterable, Iterator, Sequence

import attrs
from mlx.utils import tree_flatten

from .. import models
from ..build import find_model, load_model
from ..errors import OutOfMemoryError, VloraError, describe_batch
from ..memory.limits import describe_device, device_kind, process_memory
from ..recipe.schema import Recipe
from ..types import Batch
from .plan import Planner
from .search import USABLE, Option, Search, format_size

PLANNING_S = 20.0
"""Seconds for the search of values that fit; the plan in progress, some seconds, is finished."""

ARRAYS_OF_A_LAYER, COPIES_OF_TRAINED, FLOAT_BYTES = 60, 20, 4
"""An upper bound of what a step takes: arrays as wide as the model for each layer, and copies of trained parameters. A
batch below it need not be planned."""

WIDTH, N_LAYERS = 8192, 100
"""Assumed for models whose configuration does not say."""


def foresee(
    recipe: Recipe, backbone: models.MlxVlmBackbone, steps: Iterable[Sequence[Batch]]
) -> Iterator[Sequence[Batch]]:
    """Pass on the microbatches of steps; on a CPU refuse those that do not fit before they run.

    There MLX does not check its allocations, and the process ends with a segmentation fault. Planning a step takes a
    second or more; only a batch larger than all before it is planned, and only if a rough bound says that it may not
    fit.

    Args:
        recipe: The run's.
        backbone: The run's.
        steps: The microbatches of each step.

    Raises:
        OutOfMemoryError: By the plan a microbatch needs more than there is.
    """
    largest, usable = 0, process_memory() if device_kind() == "cpu" else 0
    for batches in steps:
        batch = max(batches, key=lambda batch: batch.tokens.size, default=None)
        if usable and batch is not None and batch.tokens.size > largest:
            largest = batch.tokens.size
            if _needs_about(backbone, batch) > usable:
                _refuse_too_large(recipe, batch, usable)
        yield batches


def _needs_about(backbone: models.MlxVlmBackbone, batch: Batch) -> int:
    """Return an upper bound of the bytes that a step takes."""
    config = backbone.module.config
    text = getattr(config, "text_config", None) or config
    width = int(getattr(text, "hidden_size", None) or WIDTH)
    n_layers = int(getattr(text, "num_hidden_layers", None) or N_LAYERS)
    trained: int = sum(value.nbytes for _, value in tree_flatten(backbone.module.trainable_parameters()))
    n_numbers: int = int(batch.tokens.size) * width * n_layers
    return ARRAYS_OF_A_LAYER * FLOAT_BYTES * n_numbers + COPIES_OF_TRAINED * trained


def _refuse_too_large(recipe: Recipe, batch: Batch, usable: int) -> None:
    blank, _ = load_model(recipe, find_model(recipe), is_abstract=True)
    rows = tuple(attrs.evolve(row, inputs=dict(row.inputs)) for row in batch.rows)
    need = sum(Planner(recipe, blank, usable).parts(batch._replace(rows=rows)).values())
    if need > usable:
        found = f"it would take {format_size(need)}, and this process may have {format_size(usable)}"
        where = "a step"
        raise OutOfMemoryError(where, found, batch)


def without_references(error: OutOfMemoryError, message: str | None = None) -> OutOfMemoryError:
    """Copy an error without what holds the run: its traceback, and rows that would ask the run's model for features.

    Args:
        error: The error.
        message: What the copy says; without it what the error says.
    """
    batch = error.batch
    if batch is not None:
        batch = batch._replace(rows=tuple(attrs.evolve(row, inputs=dict(row.inputs)) for row in batch.rows))
    found = {name: getattr(error, name) for name in ("where", "found", "is_host", "remedy", "dimension")}
    return OutOfMemoryError(**found, batch=batch, message=message)


def advise(recipe: Recipe, failed: OutOfMemoryError, saved: int | None) -> str:
    """Say in one sentence what failed, what it needs, and what would fit.

    Args:
        recipe: The run's.
        failed: What the run ended with.
        saved: The step behind which it was last saved; None if it was not.
    """
    device = describe_device()
    start = f"{failed.where}: {failed.problem} on {device.kind}, {device.name} ({failed.found})"
    kept = "nothing has been saved yet" if saved is None else f"what was saved after step {saved} is whole"
    if failed.is_host:
        lower = "lower data.workers to 1, data.prefetch to 1 or features.memory_gb to 0"
        return f"{start}; {lower}, and {_go_on(saved)}; {kept}"
    if failed.dimension and failed.batch is None:
        return f"{failed}; {kept}"
    end = time.monotonic() + PLANNING_S
    try:
        search = Search(recipe, failed.batch, device.memory_bytes, failed.dimension, lambda: time.monotonic() > end)
        need, options = search.need, search.find()
    except VloraError as error:
        return f"{failed} (what would fit could not be planned: {error}); {kept}"
    what = "the model's weights need" if failed.batch is None else f"{describe_batch(failed.batch)} need"
    planned = f"by the plan {what} {format_size(need)} of {format_size(device.memory_bytes)}"
    if search.most_tokens is not None:
        planned = f"at most {search.most_tokens:,} tokens of {describe_batch(failed.batch)} can be computed at once"
    elif need <= USABLE * device.memory_bytes:
        planned += ", so that other programs, kept features or the plan's own error take the rest"
    lower = ", or ".join(part for part in (failed.remedy, _list(options, saved)) if part)
    lower = lower or "nothing smaller that was tried fits: take a smaller model or a larger device"
    return f"{start}; {planned}; {lower}; {kept}"


def _list(options: list[Option], saved: int | None) -> str:
    if not options:
        return ""
    free = [str(option) for option in options if option.is_free]
    others = [str(option) for option in options if not option.is_free]
    if saved is None:
        return f"start again with {' or '.join([*free, *others])}"
    parts = [f"go on with --resume {' or '.join(free)}"] if free else []
    if others:
        parts.append(f"begin anew (from what was learned with model.adapter_path) with {' or '.join(others)}")
    return ", or ".join(parts)


def _go_on(saved: int | None) -> str:
    return "start again" if saved is None else "go on with --resume"
