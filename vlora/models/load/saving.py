"""Writes a complete model into a folder."""

import fnmatch
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlx_vlm import utils as mlx_vlm_utils

from ..backbone.backbone import MlxVlmBackbone
from .added_tokens import grow_config, without_adapters, write_tokenizer
from .model_files import ModelFiles
from .model_folder import CONFIG_NAME

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".safetensors.index.json")


def save_model(
    backbone: MlxVlmBackbone, base: ModelFiles, folder: Path, leave: Collection[str] = (), tokenizer: Any = None
) -> None:
    """Write a complete model: the base's configuration and processor, and the current weights without adapters.

    Args:
        backbone: The model, trained weights bound.
        base: The base model; its configuration is written in mlx-vlm's format.
        folder: An empty folder.
        leave: Names of files of the base's folder that are not the model's.
        tokenizer: The tokenizer with the added tokens; used only if there are any.
    """
    for file in companions(base, leave):
        shutil.copy(file, folder / file.name)
    config: Mapping[str, Any] | None = None
    if base.added:
        config = grow_config(base.config, backbone, base.path)
        write_tokenizer(tokenizer, base.added, folder)
    elif base.is_translated:
        # mlx-vlm has added the content of generation_config.json under that key.
        config = {key: value for key, value in base.config.items() if key != "generation_config"}
    if config is not None:
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with without_adapters(backbone.module):
        mlx_vlm_utils.save_weights(folder, backbone.module)


def companions(base: ModelFiles, leave: Collection[str] = ()) -> list[Path]:
    """List the files of a model besides its weights.

    Args:
        base: The model.
        leave: Names of files of its folder that are not the model's, also as patterns ("*.jsonl").
    """
    files = sorted(base.path.iterdir())
    found = [file for file in files if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES)]
    return [file for file in found if not any(fnmatch.fnmatch(file.name, pattern) for pattern in leave)]
