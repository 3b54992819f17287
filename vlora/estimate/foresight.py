"""On a CPU, refuses batches that by the plan do not fit into memory, before their step runs."""

from collections.abc import Iterable, Iterator, Sequence

import attrs
from mlx.utils import tree_flatten

from .. import models
from ..build import find_model, load_model
from ..errors import OutOfMemoryError
from ..memory.limits import device_kind, process_memory
from ..recipe.schema import Recipe
from ..types import Batch
from .planner import Planner
from .search import format_size

ARRAYS_OF_A_LAYER, COPIES_OF_TRAINED, FLOAT_BYTES = 60, 20, 4
"""Upper bound of a step's memory: arrays of the model's width per layer, and copies of the trained parameters. Batches
below it are not planned."""


WIDTH, N_LAYERS = 8192, 100
"""Assumed for models whose configuration does not say."""


def foresee(
    recipe: Recipe, backbone: models.MlxVlmBackbone, steps: Iterable[Sequence[Batch]]
) -> Iterator[Sequence[Batch]]:
    """Yield the microbatches of steps; on a CPU refuse those that do not fit, before they run.

    On a CPU MLX does not check its allocations: the process ends with a segmentation fault. Planning a step takes a
    second or more, so only a batch larger than all before it is planned, and only if it exceeds a rough upper bound.

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
