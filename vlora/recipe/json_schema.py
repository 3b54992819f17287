"""A JSON Schema of recipes, by which editors complete keys, explain them and mark what is wrong. Pure.

It says less than `parse_recipe`: nothing of keys that contradict one another.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs

from .checks import Bounds
from .extending import EXTENDS
from .schema import Recipe

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The one that editors of TOML know."""

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def make_schema() -> dict[str, Any]:
    """Make the schema of a recipe."""
    sections = {name: kind for name, kind in get_type_hints(Recipe).items() if attrs.has(kind)}
    extends = {"type": "string", "minLength": 1, "description": "The recipe to begin with, a path from this file."}
    return {
        "$schema": DRAFT,
        "title": "A recipe of vlora",
        "description": "All that a run does.",
        "type": "object",
        "additionalProperties": False,
        "properties": {EXTENDS: extends, **{name: _describe_section(kind) for name, kind in sections.items()}},
    }


def describe_keys(section: type) -> dict[str, str]:
    """Give what a section's docstring says of each key."""
    text = inspect.getdoc(section) or ""
    return {name: " ".join(said.split()) for name, said in _ATTRIBUTE.findall(text)}


def _describe_section(section: type) -> dict[str, Any]:
    said, hints = describe_keys(section), get_type_hints(section)
    return {
        "type": "object",
        "description": (inspect.getdoc(section) or "").partition("\n")[0],
        "additionalProperties": False,
        "properties": {
            field.name: {**_describe_key(field, hints[field.name]), "description": said[field.name]}
            for field in attrs.fields(section)
        },
    }


def _describe_key(field: "attrs.Attribute[Any]", hint: Any) -> dict[str, Any]:
    inner = [kind for kind in get_args(hint) if kind is not type(None)]
    described = _describe_kind(inner[0] if type(None) in get_args(hint) else hint)
    if field.name == "custom_prompt_format":
        # In TOML a table reads better than JSON within a string.
        described["type"] = ["string", "object", "array"]
    if isinstance(check := field.metadata["check"], Bounds):
        described |= check.describe()
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()
    if default is not attrs.NOTHING and default is not None:
        described["default"] = list(default) if isinstance(default, tuple) else default
    return described


def _describe_kind(kind: Any) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"type": "string", "enum": list(inner)}
    if origin is tuple and attrs.has(inner[0]):
        return {"type": "array", "items": _describe_section(inner[0])}
    if origin is tuple:
        length = {} if inner[-1] is Ellipsis else {"minItems": len(inner), "maxItems": len(inner)}
        return {"type": "array", "items": _describe_kind(inner[0]), **length}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}}
    return {"type": _PLAIN[kind]}
