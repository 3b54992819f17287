"""Fine-tune vision-language models on MLX. What is named here composes in your own loop; see the README.

A name is imported when it is first asked for: whoever parses a recipe does not wait for mlx-vlm and transformers.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from .ops import blas as _blas  # noqa: F401 - first: before anything multiplies a matrix

if TYPE_CHECKING:
    from .build import attach_feature_cache, load_data, load_model
    from .data.collate import bucket_length, collate, collate_packed, epoch_batches
    from .data.format.samples import format_sample
    from .data.masking import mask_completions
    from .data.packing import first_fit_decreasing
    from .errors import VloraError
    from .output.checkpoint import load_state, save_adapter, save_state
    from .recipe.schema import Recipe, dump_recipe, parse_recipe
    from .run.fit import fit
    from .train.loop import TrainLoop, evaluate
    from .train.objectives.sft import loss_fn
    from .train.optimizers import make_optimizer
    from .train.state import bind, init_state, unbind
    from .train.step import make_eval_step, make_train_step
    from .types import Batch, Example, Sample, StepOutput, TrainState, Turn

__all__ = [
    "Batch",
    "Example",
    "Recipe",
    "Sample",
    "StepOutput",
    "TrainLoop",
    "TrainState",
    "Turn",
    "VloraError",
    "attach_feature_cache",
    "bind",
    "bucket_length",
    "collate",
    "collate_packed",
    "dump_recipe",
    "epoch_batches",
    "evaluate",
    "first_fit_decreasing",
    "fit",
    "format_sample",
    "init_state",
    "load_data",
    "load_model",
    "load_state",
    "loss_fn",
    "make_eval_step",
    "make_optimizer",
    "make_train_step",
    "mask_completions",
    "parse_recipe",
    "save_adapter",
    "save_state",
    "unbind",
]

_PLACES = {
    "bucket_length": "data.collate",
    "collate": "data.collate",
    "collate_packed": "data.collate",
    "epoch_batches": "data.collate",
    "load_state": "output.checkpoint",
    "save_adapter": "output.checkpoint",
    "save_state": "output.checkpoint",
    "fit": "run.fit",
    "VloraError": "errors",
    "TrainLoop": "train.loop",
    "evaluate": "train.loop",
    "loss_fn": "train.objectives.sft",
    "mask_completions": "data.masking",
    "make_optimizer": "train.optimizers",
    "first_fit_decreasing": "data.packing",
    "Recipe": "recipe.schema",
    "dump_recipe": "recipe.schema",
    "parse_recipe": "recipe.schema",
    "format_sample": "data.format.samples",
    "load_data": "build",
    "attach_feature_cache": "build",
    "load_model": "build",
    "bind": "train.state",
    "init_state": "train.state",
    "unbind": "train.state",
    "make_eval_step": "train.step",
    "make_train_step": "train.step",
    "Batch": "types",
    "Example": "types",
    "Sample": "types",
    "StepOutput": "types",
    "TrainState": "types",
    "Turn": "types",
}
"""The module that each public name comes from; as above, where programs that check types read it."""

RENAMED = {
    "collate_packs": "collate_packed",
    "fill_packs": "first_fit_decreasing",
    "let_go": "unbind",
    "open_data": "load_data",
    "open_features": "attach_feature_cache",
    "open_model": "load_model",
    "plan_batches": "epoch_batches",
}
"""Public names of 0.1 to the names that they have now; the old ones go with the release after the next."""


def __getattr__(name: str) -> Any:
    """Import a public name from its module; from then on it is an ordinary attribute."""
    if name in RENAMED:
        message = f"vlora.{name} is called vlora.{RENAMED[name]} now; the old name goes with the release after the next"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        name = RENAMED[name]
    if name not in _PLACES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    """List the public names too that were not imported yet."""
    return sorted({*globals(), *__all__})
