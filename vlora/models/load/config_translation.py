"""Translates a config.json of any version of transformers into the format that mlx-vlm reads. Pure.

transformers 5 writes the rotary embedding as `rope_parameters`, one dict or one per type of layer; transformers 4
wrote `rope_theta`, `rope_scaling` and a few more. mlx-vlm 0.7.10 reads the newer keys in some families; in
the others it silently drops unknown keys and uses its defaults. Here every family gets the keys that its classes read,
besides those that were written, or the checkpoint is refused.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import attrs

from .transformers5 import Config, rename_keys, translate_text, translate_tower

TEXT_AT_ROOT = frozenset({"qwen2_vl", "qwen2_5_vl", "paddleocr_vl"})
"""Families whose language model mlx-vlm reads from the top of config.json (`ModelConfig.from_dict`), where
transformers 4 wrote it; transformers 5 writes `text_config`."""

TOWERS_NAMED_AS_FAMILY = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "paddleocr_vl"})
"""Families whose tower has the family's name as model_type in mlx-vlm; transformers 5 writes "qwen3_vl_vision"."""


@attrs.frozen(kw_only=True)
class LMInputs:
    """The keys of the configuration that a family's mlx-vlm classes read.

    Attributes:
        text: Keys of the language model.
        vision: Keys of the tower; None if the tower's class has no fields.
    """

    text: frozenset[str]
    vision: frozenset[str] | None


def read_fields(package: Any) -> LMInputs:
    """Read the keys from the classes of a family's package in mlx-vlm."""
    text = getattr(package, "TextConfig", None) or getattr(package, "ModelConfig", None)
    vision = getattr(package, "VisionConfig", None)
    return LMInputs(
        text=_names(text) or frozenset(),
        vision=_names(vision),
    )


def translate_config(config: Mapping[str, Any], model_type: str, fields: LMInputs, name: str) -> Config:
    """Translate a configuration into the format that mlx-vlm reads; one in that format is returned unchanged.

    Args:
        config: A config.json.
        model_type: mlx-vlm's name of the family.
        fields: The keys that its classes read.
        name: What the user calls the model, for errors.

    Raises:
        ModelError: The family's classes have no key for a setting.
    """
    translated: Config = copy.deepcopy(dict(config))
    quantized = translated.get("quantization_config") or {}
    if "quantization" not in translated and "quant_method" not in quantized and "bits" in quantized:
        # MLX's format: mlx-vlm writes it under both keys and reads only this one.
        translated["quantization"] = quantized
    # Omni models have a "thinker" for text beside a part for speech.
    root: Config = translated.get("thinker_config") or translated
    text, tower = root.get("text_config") or {}, root.get("vision_config") or {}
    if not any(isinstance(part.get("rope_parameters"), Mapping) for part in (root, text, tower)):
        return translated
    if model_type in TEXT_AT_ROOT and "hidden_size" not in root:
        for key, value in text.items():
            if key not in ("model_type", "architectures"):
                root.setdefault(key, value)
        del root["text_config"]
        text = {}
    translate_text(text or root, root, fields.text, name)
    if model_type in TOWERS_NAMED_AS_FAMILY and tower.get("model_type") == f"{model_type}_vision":
        tower["model_type"] = model_type
    rename_keys(tower, fields.vision or frozenset())
    if isinstance(tower.get("rope_parameters"), Mapping):
        translate_tower(tower, fields.vision, name)
    return translated


def _names(kind: Any) -> frozenset[str] | None:
    if not dataclasses.is_dataclass(kind):
        return None
    return frozenset(field.name for field in dataclasses.fields(kind))
