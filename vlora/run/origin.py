"""The recipe that an adapter or a model was trained by: of the run whose folder it lies in, or what it says itself."""

from pathlib import Path
from typing import Any

import attrs

from .. import models
from ..build import BUILTIN_FOLDER, BUILTIN_MODEL
from ..errors import CheckpointError, RecipeError
from ..models.load.adapter_files import ARGUMENT, named_base, read_adapter
from ..output.atomic import MODEL_NAME
from ..output.base_identity import KEY
from ..output.checkpoint import CONFIG_NAME
from ..output.paths import RECIPE_NAME, WEIGHTS_SUFFIX
from ..recipe.parse import parse_recipe
from ..recipe.schema import DataSection, LoraSection, Recipe
from ..system.files import expand


def is_adapter(name: str) -> bool:
    """Whether a name is that of an adapter: its file, or a folder that has its configuration."""
    path = expand(name)
    return path.suffix == WEIGHTS_SUFFIX or (path / CONFIG_NAME).is_file()


def find_adapter_recipe(adapter: str, base: str | None = None) -> Recipe:
    """Find the recipe that an adapter was trained by, with the adapter to go on from.

    Args:
        adapter: Its file or folder.
        base: Another folder or hub id than that of its base.

    Raises:
        CheckpointError: There is no such adapter, or nothing says what its base is.
    """
    weights, config = read_adapter(adapter, ARGUMENT)
    recorded = config.get(KEY) or {}
    path = base or recorded.get("path") or named_base(config)
    if not path:
        msg = f"{weights}: does not say on which model it was trained; name that with --base"
        raise CheckpointError(msg)
    recipe = _read_recipe(weights.parent)
    path = find_built_in(path, weights)
    scheme: dict[str, Any] = next(iter((config.get("base_quantization") or {}).values()), {})
    is_hub_id = base is None and not Path(path).exists()
    revision = recorded.get("revision") or config.get("base_revision")
    model = attrs.evolve(
        recipe.model,
        path=path,
        revision=revision if is_hub_id else None,
        adapter_path=str(weights),
        full_finetune=False,
        train_vision=bool(config.get("train_vision")),
        quantize_bits=scheme.get("bits"),
        quantize_group_size=scheme.get("group_size", recipe.model.quantize_group_size),
        add_tokens=(),
    )
    return attrs.evolve(recipe, model=model, lora=LoraSection())


def find_built_in(base: str, weights: Path) -> str:
    """Give the folder of an adapter's base that training has built; any other base is given as it is.

    It lies beside the run's folder, by default beside the adapter. Where an adapter has been moved alone, it
    is built again within the adapter's folder, from the seed of the run's recipe.

    Args:
        base: The base as the adapter names it.
        weights: The adapter's file.
    """
    if base != BUILTIN_MODEL:
        return base
    own = weights.resolve().parent
    for folder in (own, own.parent, own.parent.parent):
        if (folder / BUILTIN_FOLDER / MODEL_NAME).is_file():
            return str(folder / BUILTIN_FOLDER)
    return str(models.build_tiny_qwen3_vl(own / BUILTIN_FOLDER, seed=_read_recipe(own).train.seed))


def refuses_other_weights(weights: Path) -> bool:
    """Whether the recipe of an adapter's run has `model.strict_base`.

    Args:
        weights: The adapter's file.
    """
    return _read_recipe(weights.parent).model.strict_base


def find_model_recipe(model: str) -> Recipe:
    """Find the recipe that a model's folder was trained by; that of a hub id says nothing but its name.

    Args:
        model: A folder or a hub id.
    """
    recipe = _read_recipe(expand(model))
    section = attrs.evolve(
        recipe.model,
        path=model,
        revision=None,
        adapter_path=None,
        full_finetune=False,
        train_vision=False,
        quantize_bits=None,
        add_tokens=(),
    )
    return attrs.evolve(recipe, model=section, lora=LoraSection())


def _read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a run's folder; one of another release or program is as good as none."""
    try:
        return parse_recipe((folder / RECIPE_NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecipeError):
        return Recipe(data=DataSection(path="unused"))
