"""Where a run writes, and what becomes of what an earlier one has left there."""

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs

from .checkpoint import CONFIG_NAME
from .recipe import Recipe

STATE_NAME = "training/state.safetensors"
METRICS_NAME = "metrics.jsonl"
RECIPE_NAME = "recipe.toml"
EXAMPLE_NAME = "example.png"
EARLIER_NAME = "earlier-"
WEIGHTS_SUFFIX = ".safetensors"


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
    def is_adapter(self) -> bool:
        """Whether an adapter is written, and not a model."""
        return self.weights.suffix == WEIGHTS_SUFFIX

    def numbered(self, step: int) -> Path:
        """Name the checkpoint of a step: an adapter's file, or a model's folder."""
        if self.is_adapter:
            return self.weights.with_name(f"{step:07d}_{self.weights.name}")
        return self.weights.with_name(f"{self.weights.name}-{step:07d}")


def output_paths(recipe: Recipe) -> OutputPaths:
    """Say where a run writes: an adapter's file and beside it, or a model's folder and into it."""
    path = Path(recipe.output.path).expanduser()
    if recipe.model.full_finetune:
        folder = path.with_suffix("") if path.suffix == WEIGHTS_SUFFIX else path
        return OutputPaths(folder=folder, weights=folder)
    if path.suffix != WEIGHTS_SUFFIX:
        path = path / f"adapters{WEIGHTS_SUFFIX}"
    return OutputPaths(folder=path.parent, weights=path)


def set_aside(recipe: Recipe) -> Path | None:
    """Move what an earlier run has left where this one writes into a folder of its own, complete enough to go on from.

    Models stay: a numbered one until this run writes one of the same number, the last one until this run's is written.
    The adapter that this run starts from stays, too; there it is copied.

    Returns:
        That folder; None if there was nothing to keep: no training state, and no line of metrics.
    """
    paths = output_paths(recipe)
    if not paths.state.is_file() and not (paths.metrics.is_file() and paths.metrics.stat().st_size):
        return None
    earlier = next(
        folder for number in itertools.count(1) if not (folder := paths.folder / f"{EARLIER_NAME}{number}").exists()
    )
    kept = _starts_from(recipe)
    for file in _files_of_a_run(paths):
        target = earlier / file.relative_to(paths.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.resolve() in kept:
            shutil.copy2(file, target)
        else:
            file.replace(target)
    return earlier


def _files_of_a_run(paths: OutputPaths) -> Iterator[Path]:
    names = [STATE_NAME, METRICS_NAME, RECIPE_NAME, EXAMPLE_NAME]
    if paths.is_adapter:
        numbered = re.compile(rf"\d{{7}}_{re.escape(paths.weights.name)}")
        names += [CONFIG_NAME, paths.weights.name, *filter(numbered.fullmatch, map(_name, paths.folder.iterdir()))]
    yield from (paths.folder / name for name in names if (paths.folder / name).is_file())


def _starts_from(recipe: Recipe) -> set[Path]:
    """Name the files of the adapter that a run starts from; going on with `--resume` reads them again."""
    if recipe.model.adapter_path is None:
        return set()
    path = Path(recipe.model.adapter_path).expanduser().resolve()
    folder = path.parent if path.suffix == WEIGHTS_SUFFIX else path
    return {path, folder / f"adapters{WEIGHTS_SUFFIX}", folder / CONFIG_NAME}


def _name(path: Path) -> str:
    return path.name
