"""Fine-tune vision-language models on MLX. What is named here composes in your own loop; see the README.

A name is imported when it is first asked for: whoever parses a recipe does not wait for mlx-vlm and transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import blas as _blas  # noqa: F401 - first: before anything multiplies a matrix

if TYPE_CHECKING:
    from .batches import bucket_length, collate, collate_packs, plan_batches
    from .checkpoint import load_state, save_adapter, save_state
    from .driver import fit
    from .errors import VloraError
    from .loop import TrainLoop, evaluate
    from .losses import loss_fn
    from .masks import mask_completions
    from .optimizers import make_optimizer
    from .packing import fill_packs
    from .recipe import Recipe, dump_recipe, parse_recipe
    from .samples import format_sample
    from .session import open_data, open_features, open_model
    from .steps import bind, init_state, let_go, make_eval_step, make_train_step
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
    "bind",
    "bucket_length",
    "collate",
    "collate_packs",
    "dump_recipe",
    "evaluate",
    "fill_packs",
    "fit",
    "format_sample",
    "init_state",
    "let_go",
    "load_state",
    "loss_fn",
    "make_eval_step",
    "make_optimizer",
    "make_train_step",
    "mask_completions",
    "open_data",
    "open_features",
    "open_model",
    "parse_recipe",
    "plan_batches",
    "save_adapter",
    "save_state",
]

_PLACES = {
    "bucket_length": "batches",
    "collate": "batches",
    "collate_packs": "batches",
    "plan_batches": "batches",
    "load_state": "checkpoint",
    "save_adapter": "checkpoint",
    "save_state": "checkpoint",
    "fit": "driver",
    "VloraError": "errors",
    "TrainLoop": "loop",
    "evaluate": "loop",
    "loss_fn": "losses",
    "mask_completions": "masks",
    "make_optimizer": "optimizers",
    "fill_packs": "packing",
    "Recipe": "recipe",
    "dump_recipe": "recipe",
    "parse_recipe": "recipe",
    "format_sample": "samples",
    "open_data": "session",
    "open_features": "session",
    "open_model": "session",
    "bind": "steps",
    "init_state": "steps",
    "let_go": "steps",
    "make_eval_step": "steps",
    "make_train_step": "steps",
    "Batch": "types",
    "Example": "types",
    "Sample": "types",
    "StepOutput": "types",
    "TrainState": "types",
    "Turn": "types",
}
"""The module that each public name comes from; as above, where programs that check types read it."""


def __getattr__(name: str) -> Any:
    """Import a public name from its module; from then on it is an ordinary attribute."""
    if name not in _PLACES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    """List the public names too that were not imported yet."""
    return sorted({*globals(), *__all__})
