"""Whether a configuration has values of the types that a family's classes in mlx-vlm say they have. Pure."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from ...recipe.converter import show

PARTS = {"text_config": "TextConfig", "vision_config": "VisionConfig"}
BEYOND = 2**31
"""What no integer reaches that MLX is given; those of an array's places are 32 bits wide."""

LONG = ("max_position_embeddings", "model_max_length", "seq_length", "max_pixels", "longest_edge")
"""Lengths that may be as good as none."""


def find_misfits(package: Any, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys whose values no class can mean, each with the value found and what is expected.

    Only what is wrong in any case: an integer in the place of a float, a list where there is one for each layer and
    null for what is absent are found in published files.

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
    """Say what is expected of a value that is nothing of the kind; None if it may be one."""
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
