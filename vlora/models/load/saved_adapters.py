"""Adapters of vlora, mlx-vlm, mlx-lm and PEFT, read in the model's own names; every array is used or refused."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...adapters.names import EMBEDDINGS, HEADS
from ...adapters.targets import is_experts
from ...errors import CheckpointError
from ...output.checkpoint import read_arrays
from ..backbone.backbone import MlxVlmBackbone
from ..published.peft_reading import from_peft
from ..published.places import find_places
from .adapter_files import is_peft, read_adapter
from .model_files import ModelFiles
from .promised_layers import find_missing_layer, unread_layers

FACTORS = (".lora_a", ".lora_b", ".m")

FIRST_FACTORS = {".A": ".lora_a", ".B": ".lora_b"}
"""What mlx-vlm's first adapters, which it still writes as "legacy", call the factors."""

FIRST_ALPHA = 0.1
"""What mlx-vlm takes where such an adapter has no alpha (trainer/peft/utils.py:155)."""


def open_adapter(
    backbone: MlxVlmBackbone, path: str, files: ModelFiles | None = None
) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Read an adapter's arrays and configuration in the model's own names.

    Args:
        backbone: The model, without an adapter.
        path: The adapter's file or folder.
        files: Where the model comes from; an adapter of PEFT needs it.

    Raises:
        CheckpointError: It cannot be read, or has an array that fits nowhere.
        ModelError: The model's own files cannot be read.
    """
    weights, config = read_adapter(path)
    arrays = read_arrays(weights)
    _refuse_no_numbers(arrays, str(weights))
    if not is_peft(config):
        return _complete(arrays, config, backbone.module, str(weights))
    if files is None:
        msg = f"{path}: was written by PEFT, whose names are found by the model's files only; give them as `files`"
        raise CheckpointError(msg)
    places = find_places(files, backbone.module, _adaptable(backbone.module))
    plain = {name: np.array(value.astype(mx.float32)) for name, value in arrays.items()}
    unread = {f"{name}.weight" for name in unread_layers(backbone.module)}
    found, own = from_peft(plain, config, places, str(weights), unread)
    return {name: mx.array(value) for name, value in found.items()}, own


def _refuse_no_numbers(arrays: Mapping[str, mx.array], where: str) -> None:
    """Refuse arrays that no training writes: of integers, or not finite."""
    for name, value in arrays.items():
        if not mx.issubdtype(value.dtype, mx.floating):
            msg = f"{where}: {name} is of {str(value.dtype).rpartition('.')[2]}; expected numbers of floating point"
            raise CheckpointError(msg)
    sums = {name: mx.isfinite(value).all() for name, value in arrays.items()}
    mx.eval(sums)
    broken = next((name for name, is_finite in sums.items() if not is_finite.item()), None)
    if broken is not None:
        msg = f"{where}: {broken} has numbers that are not finite; take another checkpoint"
        raise CheckpointError(msg)


def _adaptable(module: nn.Module) -> list[str]:
    """Name the weights that adapters are of, and those of tables and heads."""
    kinds = (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding)
    return [
        f"{name}.weight"
        for name, child in module.named_modules()
        if isinstance(child, kinds) or is_experts(child) or name.rpartition(".")[2] in (*EMBEDDINGS, *HEADS)
        if "weight" in child
    ]


def _complete(
    arrays: Mapping[str, mx.array], config: Mapping[str, Any], module: nn.Module, where: str
) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Say what mlx-lm leaves out: the names of the layers, which its arrays have, as the language model calls them."""
    settings = config.get("lora_parameters") or {}
    if "rank" not in settings and isinstance(config.get("rank"), int):
        alpha = config.get("alpha", FIRST_ALPHA)
        settings = {"rank": config["rank"], "scale": alpha / config["rank"], "dropout": config.get("dropout", 0.0)}
        arrays = {_respelled(name): value for name, value in arrays.items()}
    known = {name for name, _ in module.named_modules()}
    listed = config.get("adapted_layers") or settings.get("keys") or ()
    if listed and all(name in known for name in listed) and "fine_tune_type" in config:
        return dict(arrays), dict(config)
    within = "language_model" if isinstance(module.get("language_model"), nn.Module) else ""
    renamed = {_within(name, known, within): value for name, value in arrays.items()}
    layers = list(dict.fromkeys(name.removesuffix(".lora_a") for name in renamed if name.endswith(".lora_a")))
    if not layers or not settings or config.get("fine_tune_type", "lora") not in ("lora", "dora"):
        msg = (
            f"{where}: found an adapter of type {config.get('fine_tune_type')!r} without a list of layers; expected a "
            "LoRA or DoRA"
        )
        raise CheckpointError(msg)
    if listed and not any(f".{layer}".endswith(f".{name}") for layer in layers for name in listed):
        msg = f"{where}: lists {listed[0]!r}, and the arrays are of others, as {layers[0]}; do they belong together?"
        raise CheckpointError(msg)
    # A name with a number stands for one layer; mlx-lm's have none, and stand for those of their name in each layer.
    numbered = [name for name in listed if any(part.isdigit() for part in name.split("."))]
    alien = next((name for name in numbered if not {name, f"{within}.{name}"} & known), None)
    if alien is not None:
        msg = f"{where}: lists {alien}, which the model does not have; was it trained on another model?"
        raise CheckpointError(msg)
    unread = unread_layers(module)
    adaptable = [name.removesuffix(".weight") for name in reversed(_adaptable(module))]
    adaptable = [name for name in adaptable if name not in unread]
    if (lacking := find_missing_layer(layers, adaptable, listed, config.get("num_layers"))) is not None:
        msg = f"{where}: its configuration names {lacking}, of which it has no array; it was not written whole"
        raise CheckpointError(msg)
    return renamed, {
        "num_layers": -1,
        **config,
        "fine_tune_type": config.get("fine_tune_type", "lora"),
        "lora_parameters": {**{key: value for key, value in settings.items() if key != "keys"}, "keys": layers},
    }


def _respelled(name: str) -> str:
    """Spell a factor of mlx-vlm's first adapters as later ones do."""
    end = name[name.rfind(".") :]
    return name.removesuffix(end) + FIRST_FACTORS.get(end, end)


def _within(name: str, known: set[str], language: str) -> str:
    """Spell an array's name as the whole model does, where it is the language model's."""
    owner = next((name.removesuffix(end) for end in FACTORS if name.endswith(end)), name.rpartition(".")[0])
    longer = f"{language}.{owner}" if language else owner
    return name if owner in known or longer not in known else f"{language}.{name}"
