"""Where a run writes."""

import re
from pathlib import Path

import attrs

from ..errors import RecipeError
from ..recipe.schema import Recipe

STATE_NAME = "training/state.safetensors"
METRICS_NAME = "metrics.jsonl"
PREDICTIONS_NAME = "predictions.jsonl"
EVALUATION_NAME = "predictions-eval.jsonl"
EVALUATION_NAMES = "predictions-eval*.jsonl"
"""Names of files of answers of evaluations, as a pattern; see `name_evaluation`."""
RECIPE_NAME = "recipe.toml"
EXAMPLE_NAME = "example.png"
REPORT_NAME = "report.html"
PLOT_NAME = "loss.png"
DERIVED_NAMES = (REPORT_NAME, PLOT_NAME)
"""Files that show what stands in others."""
RUN_FILE_NAMES = (METRICS_NAME, PREDICTIONS_NAME, RECIPE_NAME, EXAMPLE_NAME, *DERIVED_NAMES)
"""Files that a run writes itself, beside what it has trained."""
TENSORBOARD_NAME, WANDB_NAME = "tensorboard", "wandb"
TRACKER_NAMES = (TENSORBOARD_NAME, WANDB_NAME)
"""Folders in which trackers have the numbers again."""
EARLIER_NAME = "earlier-"
BEST_NAME = "best"
BEST_FILE = "best.json"
ADAPTER_NAME = "adapters.safetensors"
WEIGHTS_SUFFIX = ".safetensors"
MOST_NAMED = 60
"""Characters of what is evaluated that its file's name has at most."""


@attrs.frozen(kw_only=True)
class OutputPaths:
    """Where a run writes.

    Attributes:
        folder: Metrics, recipe and training state.
        weights: The adapter's file, or the model's folder.
    """

    folder: Path
    weights: Path

    @property
    def state(self) -> Path:
        """The training state."""
        return self.folder / STATE_NAME

    @property
    def metrics(self) -> Path:
        """The metrics."""
        return self.folder / METRICS_NAME

    @property
    def predictions(self) -> Path:
        """The answers."""
        return self.folder / PREDICTIONS_NAME

    @property
    def best(self) -> Path:
        """The folder of the best state: of an adapter, or a model."""
        return self.folder / BEST_NAME

    @property
    def base(self) -> Path:
        """The model with the tokens that it got, beside its adapter and named after it."""
        return self.weights.with_name(f"{self.weights.stem}-model")

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is written, and not a model."""
        return self.weights.suffix == WEIGHTS_SUFFIX

    def numbered(self, step: int) -> Path:
        """Name the checkpoint of a step: an adapter's file, or a model's folder."""
        if self.is_adapter:
            return self.weights.with_name(f"{step:07d}_{self.weights.name}")
        return self.weights.with_name(f"{self.weights.name}-{step:07d}")

    def is_numbered(self, path: Path) -> bool:
        """Whether a path is that of a checkpoint of some step."""
        name = re.escape(self.weights.name)
        pattern = rf"\d{{7}}_{name}" if self.is_adapter else rf"{name}-\d{{7}}"
        return path.parent == self.weights.parent and re.fullmatch(pattern, path.name) is not None


def name_evaluation(*what: str) -> str:
    """Name the file of the answers of an evaluation: each has its own, and none replaces another's.

    Args:
        what: What is not as it is without options: the model, the rows.
    """
    parts = [re.sub(r"[^\w.]+", "-", part).strip("-.")[:MOST_NAMED] for part in what]
    stem, _, suffix = EVALUATION_NAME.rpartition(".")
    return f"{'-'.join([stem, *filter(None, parts)])}.{suffix}"


def expand_home(path: str, key: str) -> Path:
    """Give the path of a folder to write to, with its "~" replaced.

    Raises:
        RecipeError: It begins with a user that there is not: a folder called so is not what was meant.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        msg = f"{key}: found {path!r}, and there is no user {Path(path).parts[0][1:]!r} with a home; give another path"
        raise RecipeError(msg) from None


def output_paths(recipe: Recipe) -> OutputPaths:
    """Say where a run writes: an adapter's file and beside it, or a model's folder and into it."""
    path = expand_home(recipe.output.path, "output.path")
    if recipe.model.full_finetune:
        folder = path.with_suffix("") if path.suffix == WEIGHTS_SUFFIX else path
        return OutputPaths(folder=folder, weights=folder)
    if path.suffix != WEIGHTS_SUFFIX:
        path = path / ADAPTER_NAME
    return OutputPaths(folder=path.parent, weights=path)
