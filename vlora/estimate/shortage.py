"""Advice after a lack of memory: the failed step is planned with smaller values until it fits.

The failed run has to be released before anything is planned.
"""

import time

import attrs

from ..errors import OutOfMemoryError, VloraError, describe_batch
from ..memory.limits import describe_device
from ..recipe.schema import Recipe
from .search import USABLE, Option, Search, format_size

PLANNING_S = 20.0
"""Seconds for the search of values that fit; the plan in progress, some seconds, is finished."""


def without_references(error: OutOfMemoryError, message: str | None = None) -> OutOfMemoryError:
    """Copy an error without its references to the run: the traceback, and rows that refer to the run's model.

    Args:
        error: The error.
        message: The copy's message; None for the error's own.
    """
    batch = error.batch
    if batch is not None:
        batch = batch._replace(rows=tuple(attrs.evolve(row, inputs=dict(row.inputs)) for row in batch.rows))
    found = {name: getattr(error, name) for name in ("where", "found", "is_host", "remedy", "dimension")}
    return OutOfMemoryError(**found, batch=batch, message=message)


def advise(recipe: Recipe, failed: OutOfMemoryError, saved: int | None) -> str:
    """Describe in one sentence what failed, what it needs, and which changes would fit.

    Args:
        recipe: The run's.
        failed: The error that ended the run.
        saved: The step after which the run was last saved; None if it was not.
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
