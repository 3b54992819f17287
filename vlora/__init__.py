"""Fine-tune vision-language models on MLX. What is named here composes in your own loop; see the README."""

from . import blas as _blas  # noqa: F401 - first: before anything multiplies a matrix
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
