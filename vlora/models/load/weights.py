"""Lets mlx-vlm load weights with a translated configuration, and with the names that its classes have."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm import utils as mlx_vlm_utils

Weights = Mapping[str, mx.array]

RENAMED = (
    (re.compile(r"^model\.(vision_tower|multi_modal_projector)\."), r"\1."),
    (re.compile(r"^model\.language_model\."), "language_model.model."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
    (re.compile(r"^vision_tower\.(?!vision_model\.)"), "vision_tower.vision_model."),
)
"""Parameter names of transformers 5 to those of transformers 4, which older families of mlx-vlm read."""


def load_translated(path: Path, config: Mapping[str, Any], model_type: str, *, is_lazy: bool = False) -> nn.Module:
    """Load a model's weights under another configuration than its folder's.

    The weights then are of transformers 5, too, and may have to be renamed to those of transformers 4.

    Args:
        path: The model's folder.
        config: Its configuration, in mlx-vlm's format.
        model_type: mlx-vlm's name of its family.
        is_lazy: Whether arrays are read only when they are used.

    Raises:
        OSError: There are no weights.
        ValueError: They do not fit the configuration.
    """
    try:
        with _reading(config):
            return mlx_vlm_utils.load_model(path, lazy=is_lazy)
    except ValueError as error:
        # An unknown name or shape; nothing has been read into memory yet.
        older = turn_experts if model_type == "qwen3_vl_moe" else rename_parameters
        try:
            with _reading(config, lambda weights: older(weights, config)):
                return mlx_vlm_utils.load_model(path, lazy=is_lazy)
        except ValueError:
            raise error from None


def build_module(path: Path, config: Mapping[str, Any]) -> nn.Module:
    """Build a model from its configuration alone, without weights.

    Its type is the configuration's, bfloat16 if it names none. Where it says that the model is quantized, that is taken
    to hold for all layers of the language model that can be, but for those that it says otherwise of.
    """
    settings = copy.deepcopy(dict(config))
    package, _ = mlx_vlm_utils.get_model_and_args(settings, model_path=path)
    settings.setdefault("text_config", settings.pop("llm_config", {}))
    for key in ("vision_config", "audio_config"):
        settings.setdefault(key, {})
    parts = ["text", "vision", "perceiver", "projector", "audio"]
    parsed = mlx_vlm_utils.update_module_configs(package.ModelConfig.from_dict(settings), package, settings, parts)
    module: nn.Module = package.Model(parsed)
    text = settings["text_config"] or {}
    named = next(
        (found for key in ("dtype", "torch_dtype") for found in (settings.get(key), text.get(key)) if found), ""
    )
    dtype = getattr(mx, str(named).removeprefix("torch."), mx.bfloat16)
    module.apply(lambda value: value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value)
    scheme = settings.get("quantization")
    if scheme:
        common = {key: scheme[key] for key in ("group_size", "bits", "mode") if key in scheme}
        language = module.language_model

        def chosen(name: str, layer: nn.Module) -> bool | dict[str, Any]:
            can = hasattr(layer, "to_quantized") and layer.weight.shape[-1] % common["group_size"] == 0
            own = scheme.get(f"language_model.{name}", common)
            return own if can and own else False

        nn.quantize(language, class_predicate=chosen)
    return module


def reads_alike(package: Any, config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a family's classes in mlx-vlm read the same from two configurations.

    Args:
        package: The family's package in mlx-vlm.
        config: One that it may not be able to read.
        other: One that it can.
    """

    def read(config: Mapping[str, Any]) -> Any:
        settings = copy.deepcopy(dict(config))
        settings.setdefault("text_config", {})
        settings.setdefault("vision_config", {})
        parsed = package.ModelConfig.from_dict(settings)
        return mlx_vlm_utils.update_module_configs(parsed, package, settings, ["text", "vision"])

    try:
        # Data classes compare by value.
        return bool(read(config) == read(other))
    except (TypeError, ValueError, KeyError, AttributeError):
        return False


def rename_parameters(weights: Weights, _: Mapping[str, Any] | None = None) -> dict[str, mx.array]:
    """Rename parameters to the names of transformers 4."""
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)  # noqa: PLW2901 - each pattern acts on what the one before made
        renamed[name] = value
    return renamed


def turn_experts(weights: Weights, config: Mapping[str, Any]) -> dict[str, mx.array]:
    """Transpose the experts of a Qwen3-VL mixture into the published layout.

    transformers 5 writes matrices that multiply from the left: gate_up_proj f[E, 2 I, D], down_proj f[E, D, I];
    published are f[E, D, 2 I] and f[E, I, D], the only layout that mlx-vlm reads (qwen3_vl_moe.py:168).
    """
    width = config["text_config"]["hidden_size"]

    def turned(name: str, value: mx.array) -> mx.array:
        axis = {"gate_up_proj": 2, "down_proj": 1}.get(name.rpartition(".")[2])
        return value.swapaxes(1, 2) if ".experts." in name and axis and value.shape[axis] == width else value

    return {name: turned(name, value) for name, value in weights.items()}


@contextmanager
def _reading(config: Mapping[str, Any], spell: Callable[[Weights], Weights] = dict) -> Iterator[None]:
    """Let mlx-vlm read this configuration instead of the folder's, and rename the weights.

    `load_model` (utils.py:363) has no arguments for that, and reads both with functions of its module.
    """
    read = mlx_vlm_utils._load_safetensors  # noqa: SLF001
    kept = {"load_config": mlx_vlm_utils.load_config, "_load_safetensors": read}
    mlx_vlm_utils.load_config = lambda *_, **__: copy.deepcopy(dict(config))
    mlx_vlm_utils._load_safetensors = lambda file: spell(read(file))  # noqa: SLF001
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(mlx_vlm_utils, name, function)
