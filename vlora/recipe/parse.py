"""From TOML to a recipe and back.

`parse_recipe` is strict: it reports every unknown key, wrong type and impossible value at once. Pure: files are read in
`vlora.cli`.
"""

import tomllib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
import tomli_w
from cattrs import ClassValidationError

from ..arguments import expect_type
from ..errors import RecipeError
from .converter import Known, Names, explain, make_converter, nearest, plain
from .extending import ALTERNATIVES, EXTENDS, LENGTHS, ReadBase, read_extended
from .rules import find_contradictions
from .schema import DataSection, Recipe
from .sources import MISSING, SourceSection
from .streaming_rules import find_missing

_SECTIONS: dict[str, type] = {name: hint for name, hint in get_type_hints(Recipe).items() if attrs.has(hint)}
NOTHING: tuple[Any, ...] = (None, [], ())

_CONVERTER = make_converter([SourceSection, *_SECTIONS.values()])


def parse_recipe(
    text: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    read_base: ReadBase | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        text: TOML.
        overrides: Values that replace those of the text, under dotted keys ("train.iters"). Of iters and epochs, and of
            path and sources of the data, either replaces the other, too.
        name: What it is known by to `read_base`.
        read_base: Reads what it extends; without it a recipe that extends another is refused.

    Raises:
        RecipeError: One message that lists everything wrong: key, value found, what is expected.
    """
    expect_type(text, str, "parse_recipe", "give the recipe's text, as Path(...).read_text() reads it")
    overrides = overrides or {}
    expect_type(overrides, Mapping, "parse_recipe, overrides", 'give a dict such as {"train.iters": 100}')
    raw = read_extended(text, name, read_base)
    problems = []
    for section, names in ALTERNATIVES.items():
        if isinstance(raw.get(section), dict) and any(f"{section}.{name}" in overrides for name in names):
            # An override of one replaces the other; two overrides are a mistake that is reported below.
            raw[section] = {name: value for name, value in raw[section].items() if name not in names}
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if section in _SECTIONS and not name and isinstance(value, Mapping):
            problems.append(
                f"{key}: found a dict; give each key of the section by itself, such as {_dotted(key, value)!r}"
            )
        elif section not in _SECTIONS or not name:
            problems.append(f"{key}: unknown key; {nearest(key, _known(), value)}")
        elif isinstance(raw.setdefault(section, {}), dict):
            raw[section][name] = value
    try:
        recipe = structure_recipe(raw)
    except RecipeError as error:
        problems += str(error).splitlines()
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe


def _dotted(section: str, values: Mapping[str, Any]) -> str:
    return f"{section}.{next(iter(values), 'key')}"


def structure_recipe(raw: Mapping[str, Any]) -> Recipe:
    """Make a recipe of nested dicts; the checks and errors of `parse_recipe`."""
    problems: list[str] = []
    if "data" not in raw:
        # Reported as the one key that is missing, not as a missing section.
        raw = {**raw, "data": {}}
    try:
        recipe: Recipe = _CONVERTER.structure(raw, Recipe)
    except ClassValidationError as error:
        problems += explain(error, _known(), raw)
        recipe = None  # type: ignore[assignment]
    else:
        problems += find_contradictions(recipe)
        problems += find_missing(recipe, raw)
    if isinstance(data := raw["data"], Mapping) and not any(
        data.get(name) not in NOTHING for name in ALTERNATIVES["data"]
    ):
        problems.append(MISSING)
    if isinstance(train := raw.get("train"), Mapping) and train.keys() >= set(LENGTHS):
        problems.append(
            f"train.iters and train.epochs: found {train['iters']!r} and {train['epochs']!r}; either says how long the "
            "run is, keep one"
        )
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe with every default spelled out; `parse_recipe` of it gives an equal one."""
    sections = attrs.asdict(recipe, value_serializer=lambda *args: plain(args[2]))
    if recipe.train.epochs is not None:
        del sections["train"]["iters"]
    if not recipe.data.sources:
        del sections["data"]["sources"]
    return tomli_w.dumps(_without_none(sections))


def _without_none(value: Any) -> Any:
    """Leave out keys without a value, for which TOML has no word."""
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


def flatten_recipe(text: str, *, with_defaults: bool = False) -> dict[str, Any]:
    """Give the values of a recipe, of an older one too, by their dotted keys; keys that are not known stay.

    Args:
        text: TOML, as `dump_recipe` writes it.
        with_defaults: Give keys that it does not name the values that they have without being named.

    Raises:
        tomllib.TOMLDecodeError: It is not TOML.
    """
    sections = tomllib.loads(text)
    found = {
        f"{section}.{key}": _name_names(value)
        for section, keys in sections.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    }
    if not with_defaults:
        return found
    defaults = flatten_recipe(dump_recipe(Recipe(data=DataSection())))
    if "train.epochs" in found:
        del defaults["train.iters"]
    return {**defaults, **found}


def _name_names(value: Any) -> Any:
    """Let tables of names be equal only in the same order, which matters."""
    if isinstance(value, list) and all(isinstance(inner, dict) for inner in value):
        return [{key: _name_names(inner) for key, inner in source.items()} for source in value]
    return Names(value) if isinstance(value, dict) else value


def parse_value(text: str) -> Any:
    """Read a value given on the command line: TOML where it is TOML, otherwise a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def parse_override(key: str, text: str) -> Any:
    """Read the value of a key given on the command line; where the key is a text, so is a date, a number or `true`."""
    value, (section, _, name) = parse_value(text), key.partition(".")
    fields = attrs.fields(_SECTIONS[section]) if section in _SECTIONS else ()
    kind = next((field.type for field in fields if field.name == name), None)
    return text if kind in (str, str | None) and not isinstance(value, (str, list, dict)) else value


def _known() -> Known:
    of_sources = [f"data.sources.{field.name}" for field in attrs.fields(SourceSection)]
    choices = {
        f"{section}.{name}": get_args(hint)
        for section, kind in _SECTIONS.items()
        for name, hint in get_type_hints(kind).items()
        if get_origin(hint) is Literal
    }
    return Known([*_SECTIONS, EXTENDS], [*all_keys(), *of_sources], choices)


def all_keys() -> list[str]:
    """Name every key of a recipe, dotted."""
    return [f"{name}.{field.name}" for name, kind in _SECTIONS.items() for field in attrs.fields(kind)]
