"""From a recipe to the things a run is made of: rows, encoder, model. Reads disk; trains nothing."""

from pathlib import Path
from typing import Any

import attrs

from . import backend
from .errors import RecipeError
from .recipe import Recipe
from .rows import Rows, read_rows

BUILTIN_MODEL = "builtin:tiny-qwen3-vl"
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

    def numbered(self, step: int) -> Path:
        """Name the checkpoint of a step: an adapter's file, or a model's folder."""
        if self.weights.suffix == WEIGHTS_SUFFIX:
            return self.weights.with_name(f"{step:07d}_{self.weights.name}")
        return self.weights.with_name(f"{self.weights.name}-{step:07d}")


@attrs.frozen(eq=False, kw_only=True)
class Data:
    """The rows of a recipe and what encodes them; no weights.

    Attributes:
        files: The model's folder and configuration.
        encoder: Turns samples into examples.
        train: Rows to train on.
        valid: Rows to validate on, if the recipe names any.
    """

    files: backend.ModelFiles
    encoder: backend.Encoder
    train: Rows
    valid: Rows | None


def output_paths(recipe: Recipe) -> OutputPaths:
    """Say where a run writes: an adapter's file and beside it, or a model's folder and into it."""
    path = Path(recipe.output.path).expanduser()
    if recipe.model.full_finetune:
        folder = path.with_suffix("") if path.suffix == WEIGHTS_SUFFIX else path
        return OutputPaths(folder=folder, weights=folder)
    if path.suffix != WEIGHTS_SUFFIX:
        path = path / f"adapters{WEIGHTS_SUFFIX}"
    return OutputPaths(folder=path.parent, weights=path)


def find_model(recipe: Recipe) -> backend.ModelFiles:
    """Find the recipe's model; the built-in one is built beside the output first.

    Raises:
        ModelError: There is no such model, or it is not trained.
        RecipeError: The output would overwrite the model it starts from.
    """
    section = recipe.model
    paths = output_paths(recipe)
    if section.path == BUILTIN_MODEL:
        folder = paths.folder.parent / "tiny-qwen3-vl"
        section = attrs.evolve(section, path=str(backend.build_tiny_qwen3_vl(folder, seed=recipe.train.seed)))
    files = backend.find_model(section)
    if section.full_finetune and paths.weights.resolve() == files.path.resolve():
        msg = f"output.path: {recipe.output.path!r} is the model that training starts from; give another folder"
        raise RecipeError(msg)
    return files


def open_data(recipe: Recipe) -> Data:
    """Open the rows of a recipe and the processor of its model.

    Raises:
        VloraError: A part of the recipe names something that is not there.
    """
    # The rows first: a slip in their path should not wait for a model to be downloaded.
    train, valid = read_rows(recipe.data, seed=recipe.train.seed)
    files = find_model(recipe)
    processor = backend.load_processor(files, recipe.model)
    encoder = backend.make_encoder(processor, files.config, files.family, recipe.data)
    return Data(files=files, encoder=encoder, train=train, valid=valid)


def open_model(recipe: Recipe, files: backend.ModelFiles) -> tuple[backend.MlxVlmBackbone, dict[str, Any]]:
    """Load the model and make trainable what the recipe trains.

    Args:
        recipe: The recipe.
        files: Its model, as `find_model` found it.

    Returns:
        The backbone, and the adapter's configuration (after full fine-tuning only its type).

    Raises:
        VloraError: The weights, the targets or the adapter do not fit.
    """
    section = recipe.model
    backbone, quantized = backend.load_backbone(files, section)
    if section.train_vision:
        backend.unfreeze_vision(backbone)
    if section.full_finetune:
        backend.unfreeze_language(backbone)
        config: dict[str, Any] = {"fine_tune_type": "full"}
    elif section.adapter_path is not None:
        config = backend.load_adapter(backbone, section.adapter_path, recipe.lora, quantized)
    else:
        config = backend.add_lora(backbone, recipe.lora, seed=recipe.train.seed, quantized=quantized)
    return backbone, {**config, "base_model": section.path, "train_vision": section.train_vision}
