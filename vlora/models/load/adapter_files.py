"""Files of adapters, as vlora, mlx-vlm, mlx-lm and PEFT write them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...output.atomic import MODEL_NAME
from ...output.checkpoint import CONFIG_NAME
from ...system.files import expand
from .documents import read_object

WHERE, ARGUMENT = "model.adapter_path", "adapter"
"""How people name an adapter: in a recipe, and as the argument of a command."""

OWN_NAME, PEFT_NAME = "adapters.safetensors", "adapter_model.safetensors"
PICKLED = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")


def read_adapter(path: str, where: str = WHERE) -> tuple[Path, dict[str, Any]]:
    """Find an adapter's weights and its configuration beside them.

    Args:
        path: Its file or folder.
        where: How errors begin: what has named it.

    Raises:
        CheckpointError: One of the two is missing, the configuration is none, or the weights are pickled.
    """
    weights = expand(path)
    if weights.is_dir():
        folder = weights
        weights = folder / OWN_NAME
        if not weights.exists() and (folder / PEFT_NAME).exists():
            weights = folder / PEFT_NAME
        pickled = next((folder / name for name in PICKLED if (folder / name).exists()), None)
        if not weights.exists() and pickled is not None:
            weights = pickled
    if weights.suffix in (".bin", ".pt", ".pth", ".pkl"):
        msg = f"{where}: {weights} is pickled, and reading it would run code; save it as safetensors"
        raise CheckpointError(msg)
    config = weights.parent / CONFIG_NAME
    if weights != expand(path) and not weights.is_file() and (weights.parent / MODEL_NAME).is_file():
        msg = f"{where}: {weights.parent} is a model's folder, and no adapter; give the folder of a LoRA's run"
        raise CheckpointError(msg)
    for file in (weights, config):
        if not file.is_file():
            msg = f"{where}: found no {file}; give the adapter's file, adapter_config.json beside it"
            raise CheckpointError(msg)
    return weights, read_object(config, CheckpointError, where)


def named_base(config: Mapping[str, Any]) -> str | None:
    """Give the name of the model that an adapter says it was trained on; None if it says none."""
    found = config.get("base_model") or config.get("base_model_name_or_path")
    return found if isinstance(found, str) else None


def is_peft(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is PEFT's."""
    return "peft_type" in config
