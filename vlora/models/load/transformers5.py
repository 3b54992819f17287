"""Translates parts of a config.json of transformers 5 into the keys that a family's mlx-vlm classes read. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import ModelError
from .rope_scaling import MENDED_TYPES, PLAIN_TYPES, rope_type

Config = dict[str, Any]

RENAMED = {"num_local_experts": "num_experts", "attention_heads": "num_attention_heads"}
"""Keys of transformers to those of mlx-vlm's classes. The first is for mixtures of experts, the second for Mllama's
tower, whose published sizes are mlx-vlm's defaults (mllama/config.py:41)."""


FULL_LAYERS = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
"""Keys that transformers 5 gives per layer (`per_layer_config`), to those of Gemma 4's classes for all layers of full
attention."""


TOWER_THETA = 10_000.0
"""Theta of towers whose mlx-vlm classes have no field for it."""


def rename_keys(part: Config, fields: frozenset[str]) -> None:
    """Add the names that mlx-vlm's class has for keys that transformers spells otherwise.

    Args:
        part: The part of a config.json; changed in place.
        fields: The names that the part's class reads.
    """
    for name, known in RENAMED.items():
        if name in part and known in fields and name not in fields:
            part.setdefault(known, part[name])


def translate_text(text: Config, root: Mapping[str, Any], fields: frozenset[str], name: str) -> None:
    """Add to a language model's configuration what its class reads.

    Args:
        text: The language model's part of a config.json; changed in place.
        root: The whole of it.
        fields: The names that the class reads.
        name: What the user calls the model, for errors.

    Raises:
        ModelError: The class has no field for a setting.
    """
    rename_keys(text, fields)
    if "tie_word_embeddings" in root and "tie_word_embeddings" in fields:
        # transformers 5 uses the top one; the language model's own key keeps its default.
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
    """Replace equal settings of all full-attention layers by one."""
    layers = text["per_layer_config"]
    full = {str(place) for place, kind in enumerate(text.get("layer_types", ())) if kind == "full_attention"}
    first, *others = layers.values()
    known = {key: FULL_LAYERS[key] for key in FULL_LAYERS if FULL_LAYERS[key] in fields}
    if set(layers) != full or any(other != first for other in others) or not set(first) <= set(known):
        raise _refusal(name, "gives single layers settings of their own (per_layer_config)")
    for key, joined in known.items():
        text[joined] = first.get(key, text[key])


def _spell_rope(rope: Config, fields: frozenset[str], name: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of an older configuration, for a family with these fields."""
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
        kind = rope.get("type", rope_type(rope))
        rest = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
        # Some classes ask for "type", some for "rope_type".
        yield "rope_scaling", {**rest, "type": kind, "rope_type": kind}
    elif scaling not in (None, *MENDED_TYPES) and "rope_parameters" not in fields:
        raise _refusal(name, f"scales its rotary embedding ({scaling})")


def translate_tower(tower: Config, fields: frozenset[str] | None, name: str) -> None:
    """Add to a vision tower's configuration what its class reads.

    Args:
        tower: The tower's part of a config.json, with `rope_parameters`; changed in place.
        fields: The names that the class reads; None where the tower is not described by fields.
        name: What the user calls the model, for errors.

    Raises:
        ModelError: The class has no field for a setting.
    """
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
    """Return the period of full-attention layers, if they are periodic."""
    full = [place for place, kind in enumerate(layer_types, start=1) if kind == "full_attention"]
    pattern = full[0] if full else len(layer_types) + 1
    if full != list(range(pattern, len(layer_types) + 1, pattern)):
        raise _refusal(name, "mixes sliding and full attention in no regular order")
    return pattern


def _scaling(rope: Mapping[str, Any]) -> str | None:
    """Return the type of a scaled rotary embedding; None for an unscaled one."""
    kind = rope_type(rope)
    return None if kind in PLAIN_TYPES else kind


def _refusal(name: str, what: str) -> ModelError:
    return ModelError(
        f"{name!r} was saved by transformers 5 and {what}, which mlx-vlm's classes of this family have no field for; "
        "it would be read as something else",
        key="model.path",
    )
