"""Fine-tune vision-language models on MLX.

A whole run:

    fit                   carry out a recipe; yields events
    watch                 shows these events in a notebook or a terminal; gives the last one
    events                the module of their classes: Started, StepReport, Saved, Finished, ...
    parse_recipe          a recipe's text (TOML) as a Recipe, checked
    dump_recipe           a Recipe as text, every default spelled out
    open_trackers         takes events, or numbers of a loop of your own, to the trackers that a recipe names
    VloraError            the base of all errors that a user can mend

What a run is made of, `row -> Sample -> Example -> Batch -> (TrainState, StepOutput)`:

    load_data             the rows of a recipe, or a list of dicts, and the encoder of its model
    format_sample         a row as a Sample: who says what, and where images stand
    mask_completions      which tokens of a conversation are learned
    collate               Examples as a padded Batch
    collate_packed        Examples as a Batch with several in each row
    epoch_batches         which rows share a batch
    bucket_length         the length that a batch is padded to
    first_fit_decreasing  which rows are packed into one
    load_model            a recipe's model with what is trained of it
    load_adapter          another saved adapter in place of the model's
    attach_feature_cache  keeps what a frozen vision tower gives
    answer                what the model answers to a sample's question
    predict               the same of many rows, a batch at a time, as AnswerOptions say it: a Prediction of each
    find_metrics, score   metrics by their names; what they say of predictions, with intervals
    Recipe, Sample, Turn, ImageSlot, Example, Batch, Targets, TrainState, StepOutput    the records

Training:

    make_optimizer        a recipe's optimizer, one of MLX's
    init_state            the TrainState of a run that has not begun
    make_train_step       (state, batch, learning_rate) -> (state, output), compiled
    make_eval_step        the same without gradients
    step_gradients        the gradients of a step that is not taken
    make_schedule         step -> learning rate, as a recipe has it
    loss_fn               (logits, targets, weights) -> (sum, count)
    Objective             any function of token log-probabilities, in a loss's place
    find_objective        what train.objective names: of preferences with what [preference] says
    make_reference        the model that training starts from, which some objectives compare with
    sum_by_example        values of tokens added up for each example, for such functions
    sum_by_group          values of examples added up for each pair, or other group
    bind, unbind          give a state's parameters to the model, and take them back
    TrainLoop, evaluate   steps with reports; the loss of rows that are held out
    open_ranks            the processes, each with a device, that take the steps together

Files:

    save_state, load_state  a training state, from which a run goes on exactly
    save_adapter            an adapter as `mlx_vlm.load(base, adapter_path=...)` reads it
    adapter_state_dict      its arrays

A name is imported when it is first asked for: parsing a recipe does not wait for mlx-vlm and transformers.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from . import moved as _moved
from .ops import blas as _blas  # noqa: F401 - first: before anything multiplies a matrix

if TYPE_CHECKING:
    from . import events
    from .adapters.attached import adapter_state_dict
    from .build import load_data, load_model
    from .cli.watch import watch
    from .data.collate import collate, collate_packed
    from .data.format.samples import format_sample
    from .data.masking import mask_completions
    from .data.packing import first_fit_decreasing
    from .data.sampler import epoch_batches
    from .errors import VloraError
    from .evaluation.metrics import find_metrics, score
    from .evaluation.prediction import Prediction
    from .models.generation.answering import AnswerOptions, answer
    from .models.load.trainable import load_adapter
    from .ops.buckets import bucket_length
    from .output.checkpoint import load_state, save_adapter, save_state
    from .recipe.parse import dump_recipe, parse_recipe
    from .recipe.schema import Recipe
    from .run.feature_cache import attach_feature_cache
    from .run.fit import fit
    from .run.predict import predict
    from .trackers.opening import open_trackers
    from .train.eval_step import evaluate, make_eval_step
    from .train.gradients import step_gradients
    from .train.loop import TrainLoop
    from .train.objectives.named import find_objective
    from .train.objectives.objective import Objective
    from .train.objectives.sft import loss_fn
    from .train.objectives.sums import sum_by_example, sum_by_group
    from .train.optimizers import make_optimizer
    from .train.ranks import open_ranks
    from .train.reference import make_reference
    from .train.schedules import make_schedule
    from .train.state import bind, init_state, unbind
    from .train.step import make_train_step
    from .types import Batch, Example, ImageSlot, Sample, StepOutput, Targets, TrainState, Turn

__version__ = "0.1.0"

__all__ = [
    "AnswerOptions",
    "Batch",
    "Example",
    "ImageSlot",
    "Objective",
    "Prediction",
    "Recipe",
    "Sample",
    "StepOutput",
    "Targets",
    "TrainLoop",
    "TrainState",
    "Turn",
    "VloraError",
    "adapter_state_dict",
    "answer",
    "attach_feature_cache",
    "bind",
    "bucket_length",
    "collate",
    "collate_packed",
    "dump_recipe",
    "epoch_batches",
    "evaluate",
    "events",
    "find_metrics",
    "find_objective",
    "first_fit_decreasing",
    "fit",
    "format_sample",
    "init_state",
    "load_adapter",
    "load_data",
    "load_model",
    "load_state",
    "loss_fn",
    "make_eval_step",
    "make_optimizer",
    "make_reference",
    "make_schedule",
    "make_train_step",
    "mask_completions",
    "open_ranks",
    "open_trackers",
    "parse_recipe",
    "predict",
    "save_adapter",
    "save_state",
    "score",
    "step_gradients",
    "sum_by_example",
    "sum_by_group",
    "unbind",
    "watch",
]

_PLACES: dict[str, str | None] = {
    "bucket_length": "ops.buckets",
    "collate": "data.collate",
    "collate_packed": "data.collate",
    "epoch_batches": "data.sampler",
    "adapter_state_dict": "adapters.attached",
    "AnswerOptions": "models.generation.answering",
    "answer": "models.generation.answering",
    "predict": "run.predict",
    "Prediction": "evaluation.prediction",
    "find_metrics": "evaluation.metrics",
    "find_objective": "train.objectives.named",
    "make_reference": "train.reference",
    "score": "evaluation.metrics",
    "events": None,
    "load_adapter": "models.load.trainable",
    "load_state": "output.checkpoint",
    "save_adapter": "output.checkpoint",
    "save_state": "output.checkpoint",
    "fit": "run.fit",
    "watch": "cli.watch",
    "VloraError": "errors",
    "TrainLoop": "train.loop",
    "evaluate": "train.eval_step",
    "loss_fn": "train.objectives.sft",
    "mask_completions": "data.masking",
    "open_ranks": "train.ranks",
    "open_trackers": "trackers.opening",
    "make_optimizer": "train.optimizers",
    "first_fit_decreasing": "data.packing",
    "Recipe": "recipe.schema",
    "dump_recipe": "recipe.parse",
    "parse_recipe": "recipe.parse",
    "format_sample": "data.format.samples",
    "load_data": "build",
    "attach_feature_cache": "run.feature_cache",
    "load_model": "build",
    "bind": "train.state",
    "init_state": "train.state",
    "unbind": "train.state",
    "make_eval_step": "train.eval_step",
    "make_schedule": "train.schedules",
    "make_train_step": "train.step",
    "step_gradients": "train.gradients",
    "Objective": "train.objectives.objective",
    "sum_by_example": "train.objectives.sums",
    "sum_by_group": "train.objectives.sums",
    "Targets": "types",
    "Batch": "types",
    "Example": "types",
    "ImageSlot": "types",
    "Sample": "types",
    "StepOutput": "types",
    "TrainState": "types",
    "Turn": "types",
}
"""The module that each public name comes from, None for a module of the package itself; as above, where programs that
check types read it."""

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

_moved.install()


def __getattr__(name: str) -> Any:
    """Import a public name from its module; from then on it is an ordinary attribute."""
    if name in RENAMED:
        message = f"vlora.{name} is called vlora.{RENAMED[name]} now; the old name goes with the release after the next"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        name = RENAMED[name]
    if name == "backend":
        return importlib.import_module(".backend", __name__)
    if name not in _PLACES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    place = _PLACES[name]
    if place is None:
        return importlib.import_module(f".{name}", __name__)
    value = globals()[name] = getattr(importlib.import_module(f".{place}", __name__), name)
    return value


def __dir__() -> list[str]:
    """List the public names too that were not imported yet."""
    return sorted({*globals(), *__all__})
