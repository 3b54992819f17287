"""Configurations of transformers 5, in the words that mlx-vlm reads. Pure.

transformers 5 writes the rotary embedding as `rope_parameters`, one dict or one per type of layer; transformers 4
wrote `rope_theta`, `rope_scaling` and a few more. mlx-vlm 0.7.10 knows the newer spelling in some families; in the
others it drops what it does not know and falls back to its defaults without a word. Here every family gets the spelling
that its classes read, beside the one that was written, or the checkpoint is refused.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ...errors import ModelError

Config = dict[str, Any]

TEXT_AT_ROOT = frozenset({"qwen2_vl", "qwen2_5_vl", "paddleocr_vl"})
"""Families whose language model mlx-vlm reads from the top of config.json (`ModelConfig.from_dict`), where
transformers 4 wrote it; transformers 5 writes `text_config`."""

TOWERS_NAMED_AS_FAMILY = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "paddleocr_vl"})
"""Families whose tower mlx-vlm takes under the family's own name only; transformers 5 writes "qwen3_vl_vision"."""

RENAMED = {"num_local_experts": "num_experts", "attention_heads": "num_attention_heads"}
"""Keys of a part: transformers' name to the one that mlx-vlm's class has. The first is a mixture's, the other that of
Mllama's tower, whose published sizes are mlx-vlm's defaults (mllama/config.py:41)."""

FULL_LAYERS = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
"""What transformers 5 gives layer by layer (`per_layer_config`), to what Gemma 4's classes have for all layers of full
attention."""

PLAIN_TYPES = ("default", "mrope", "axial")
"""Types of rotary embedding without a scaling: only theta, and which part of it turns with which axis, are given."""

MENDED_TYPES = ("linear", "llama3")
"""Types of scaling that `vlora.models.load.rope_scaling` puts in where mlx-vlm's classes have none."""

SCALED_TYPES = (*MENDED_TYPES, "yarn", "longrope")
"""All that are known to change what a model computes within the context that it was made for."""

TOWER_THETA = 10_000.0
"""What towers have whose mlx-vlm classes have no field for it."""


@attrs.frozen(kw_only=True)
class LMInputs:
    """The names of the configuration that a family's mlx-vlm classes read.

    Attributes:
        text: Those of the language model.
        vision: Those of the tower; None where the tower is not described by fields.
    """

    text: frozenset[str]
    vision: frozenset[str] | None


def read_fields(package: Any) -> LMInputs:
    """Read the names off a family's package in mlx-vlm."""
    text = getattr(package, "TextConfig", None) or getattr(package, "ModelConfig", None)
    vision = getattr(package, "VisionConfig", None)
    return LMInputs(
        text=_names(text) or frozenset(),
        vision=_names(vision),
    )


def translate_config(config: Mapping[str, Any], model_type: str, fields: LMInputs, name: str) -> Config:
    """Write a configuration in the words that mlx-vlm reads; one that is in them comes back as it is.

    Args:
        config: A config.json.
        model_type: mlx-vlm's name of the family.
        fields: What its classes read.
        name: What the user calls the model, for errors.

    Raises:
        ModelError: Something the family's classes have no word for.
    """
    translated: Config = copy.deepcopy(dict(config))
    quantized = translated.get("quantization_config") or {}
    if "quantization" not in translated and "quant_method" not in quantized and "bits" in quantized:
        # MLX's own; mlx-vlm writes it under both keys and reads only this one.
        translated["quantization"] = quantized
    # Omni models keep what reads and writes text beside what speaks.
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
    _translate_text(text or root, root, fields.text, name)
    if model_type in TOWERS_NAMED_AS_FAMILY and tower.get("model_type") == f"{model_type}_vision":
        tower["model_type"] = model_type
    _rename(tower, fields.vision or frozenset())
    if isinstance(tower.get("rope_parameters"), Mapping):
        _translate_tower(tower, fields.vision, name)
    return translated


def find_scaling(config: Mapping[str, Any]) -> Config | None:
    """Give a language model's rotary embedding if the same scaling acts on all its layers; None if none does.

    Args:
        config: A config.json of either version.
    """
    root = config.get("thinker_config") or config
    text = root.get("text_config") or root.get("llm_config") or root
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, Mapping) or _type(rope) not in SCALED_TYPES:
        return None
    return {**rope, "type": _type(rope), "rope_type": _type(rope)}


def _names(kind: Any) -> frozenset[str] | None:
    if not dataclasses.is_dataclass(kind):
        return None
    return frozenset(field.name for field in dataclasses.fields(kind))


def _rename(part: Config, fields: frozenset[str]) -> None:
    for name, known in RENAMED.items():
        if name in part and known in fields and name not in fields:
            part.setdefault(known, part[name])


def _translate_text(text: Config, root: Mapping[str, Any], fields: frozenset[str], name: str) -> None:
    _rename(text, fields)
    if "tie_word_embeddings" in root and "tie_word_embeddings" in fields:
        # transformers 5 goes by the top one; the language model's own stays at its default.
        text["tie_word_embeddings"] = root["tie_word_embeddings"]
    if "sliding_window_pattern" in fields and "layer_types" not in fields and "layer_types" in text:
        text["sliding_window_pattern"] = _find_pattern(text["layer_types"], name)
    if text.get("per_layer_config") and "per_layer_config" not in fields:
        _join_layers(text, fields, name)
    rope = text.get("rope_parameters")
    if isinstance(rope, Mapping):
        for key, value in _spell_rope(dict(rope), fields, name):
            text[key] = value


def _join_layers(text: Config, fields: frozenset[str], name: str) -> None:
    """Say once what single layers say, if they are those of full attention and say the same."""
    layers = text["per_layer_config"]
    full = {str(place) for place, kind in enumerate(text.get("layer_types", ())) if kind == "full_attention"}
    first, *others = layers.values()
    known = {key: FULL_LAYERS[key] for key in FULL_LAYERS if FULL_LAYERS[key] in fields}
    if set(layers) != full or any(other != first for other in others) or not set(first) <= set(known):
        raise _refusal(name, "gives single layers settings of their own (per_layer_config)")
    for key, joined in known.items():
        text[joined] = first.get(key, text[key])


def _spell_rope(rope: Config, fields: frozenset[str], name: str) -> Iterator[tuple[str, Any]]:
    """Yield what an older configuration would say, for a family that has these fields."""
    knows = "rope_parameters" in fields
    if any(isinstance(value, Mapping) for value in rope.values()):
        if knows:
            return
        if "rope_local_base_freq" not in fields or set(rope) != {"full_attention", "sliding_attention"}:
            raise _refusal(name, f"has a rotary embedding for each of {', '.join(sorted(rope))}")
        local, rope = rope["sliding_attention"], rope["full_attention"]
        if _scaling(local) is not None:
            raise _refusal(name, f"scales the rotary embedding of its sliding layers ({_scaling(local)})")
        yield "rope_local_base_freq", local["rope_theta"]
    theta = next((key for key in ("rope_theta", "rope_global_base_freq") if key in fields), None)
    if theta is None and not knows:
        raise _refusal(name, f"has a rotary embedding with theta {rope['rope_theta']:g}")
    if theta is not None and "rope_theta" in rope:
        yield theta, rope["rope_theta"]
    part = rope.get("partial_rotary_factor")
    if part is not None and "partial_rotary_factor" in fields:
        yield "partial_rotary_factor", part
    elif part not in (None, 1.0) and not knows:
        raise _refusal(name, f"turns a part of each head only ({part:g})")
    yield from _spell_scaling(rope, fields, name)


def _spell_scaling(rope: Config, fields: frozenset[str], name: str) -> Iterator[tuple[str, Any]]:
    scaling = _scaling(rope)
    if "rope_scaling" in fields and (scaling is not None or "mrope_section" in rope):
        kind = rope.get("type", _type(rope))
        rest = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
        # Some classes ask for "type", some for "rope_type".
        yield "rope_scaling", {**rest, "type": kind, "rope_type": kind}
    elif scaling not in (None, *MENDED_TYPES) and "rope_parameters" not in fields:
        raise _refusal(name, f"scales its rotary embedding ({scaling})")


def _translate_tower(tower: Config, fields: frozenset[str] | None, name: str) -> None:
    if fields is None or "rope_parameters" in fields:
        return
    rope = tower["rope_parameters"]
    theta = rope.get("rope_theta", TOWER_THETA)
    if _scaling(rope) is not None:
        raise _refusal(name, f"scales the rotary embedding of its tower ({_scaling(rope)})")
    if "rope_theta" in fields:
        tower["rope_theta"] = theta
    elif theta != TOWER_THETA:
        raise _refusal(name, f"has a tower whose rotary embedding has theta {theta:g}")


def _find_pattern(layer_types: list[str], name: str) -> int:
    """Say after how many layers one sees everything, if it is always as many."""
    full = [place for place, kind in enumerate(layer_types, start=1) if kind == "full_attention"]
    pattern = full[0] if full else len(layer_types) + 1
    if full != list(range(pattern, len(layer_types) + 1, pattern)):
        raise _refusal(name, "mixes sliding and full attention in no regular order")
    return pattern


def _type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _scaling(rope: Mapping[str, Any]) -> str | None:
    """Name the type of a scaled rotary embedding; None for one that is not."""
    kind = _type(rope)
    return None if kind in PLAIN_TYPES else kind


def _refusal(name: str, what: str) -> ModelError:
    return ModelError(
        f"model.path: {name!r} was saved by transformers 5 and {what}, which mlx-vlm's classes of this family have no "
        "field for; it would be read as something else"
    )
