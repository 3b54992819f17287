"""Compares the values of a configuration with the type annotations of a family's classes in mlx-vlm. Pure."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from ...recipe.converter import show

PARTS = {"text_config": "TextConfig", "vision_config": "VisionConfig"}
BEYOND = 2**31
"""Exclusive upper bound of integers for MLX, whose array dimensions have 32 bits."""

LONG = ("max_position_embeddings", "model_max_length", "seq_length", "max_pixels", "longest_edge")
"""Keys of lengths that may be practically unlimited."""


def find_misfits(package: Any, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys with impossible values, each with the value found and the expected type.

    Published files have integers for floats, lists with a value per layer, and null for absent values; these are
    accepted.

    Args:
        package: The family's package in mlx-vlm.
        config: Its config.json.
    """
    root = getattr(package, "ModelConfig", None)
    yield from _compare(config, _fields(root), "")
    for key, name in PARTS.items():
        part = config.get(key)
        if isinstance(part, Mapping):
            yield from _compare(part, _fields(getattr(package, name, None)), f"{key}.")


def _fields(kind: Any) -> Mapping[str, Any]:
    if not dataclasses.is_dataclass(kind):
        return {}
    return {field.name: field.type for field in dataclasses.fields(kind)}


def _compare(found: Mapping[str, Any], fields: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in found.keys() & fields.keys():
        value = found[key]
        expected = None if value is None or key in LONG else _expect(fields[key], value)
        if expected is not None:
            yield f"{prefix}{key}: found {show(value)}, expected {expected}"


def _expect(kind: Any, value: Any) -> str | None:
    """Return the expected type of a value that does not have it; None if the value is possible."""
    kinds = {kind, *get_args(kind)} & {int, float, str, bool}
    if len(kinds) != 1 or (get_args(kind) and type(None) not in get_args(kind)):
        return None
    (one,) = kinds
    rules = {
        str: [("a string", isinstance(value, (list, Mapping)))],
        bool: [("true or false", isinstance(value, (str, list, Mapping)))],
        float: _judge_number(value),
        int: [
            *_judge_number(value),
            (f"an integer below {BEYOND}", type(value) is int and not -BEYOND <= value < BEYOND),
        ],
    }
    return next((expected for expected, is_wrong in rules[one] if is_wrong), None)


def _judge_number(value: Any) -> list[tuple[str, bool]]:
    return [
        ("a number", isinstance(value, (str, Mapping))),
        ("a finite number", isinstance(value, float) and not math.isfinite(value)),
    ]
