"""From nested dicts to sections of a recipe, strictly: nothing is coerced, all that is wrong is said at once. Pure."""

import difflib
import functools
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import attrs
import cattrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError
from cattrs.errors import IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

from ..system.pickling import reduce_error
from .meanings import explain_value
from .synonyms import explain_name, explain_section, find_key, find_value


class Names(dict[str, str]):
    """Names to names, as a value: never changed, equal only in the same order, and with a hash."""

    def __eq__(self, other: object) -> bool:
        """Compare with any dict."""
        return isinstance(other, dict) and [*self.items()] == [*other.items()]

    def __ne__(self, other: object) -> bool:
        """Compare with any dict."""
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        """Hash the names in their order."""
        return hash(tuple(self.items()))


Check = Callable[[Any], str | None]
"""Says what is wrong with a value of the right type, or None."""


def key(default: Any = attrs.NOTHING, check: Check | None = None) -> Any:
    """Make the field of a key: its default, and the check of its values."""
    return attrs.field(default=default, metadata={"check": check})


_WORDS: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


BEYOND = 2**63
"""What no integer of TOML reaches; Python's own have no end."""

_LISTED = re.compile(r"(.+)\[\d+\]")
"""A section that stands in a list: data.sources[0]."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlong = 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8


def show(value: Any) -> str:
    """Write a value that was found, cut where it is longer than a sentence bears."""
    return _SHORT.repr(value)


class ChoiceError(ValueError):
    """A value that is none of those that a key may have."""

    def __init__(self, value: Any, choices: tuple[str, ...]) -> None:
        """Say which ones there are."""
        super().__init__(f"found {show(value)}, expected one of {', '.join(map(repr, choices))}")
        self.value, self.choices = str(value), choices

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made again by what it knows."""
        return reduce_error(self)

    def hint(self, key: str) -> str:
        """Say what may have been meant, or what is written for it; empty where that is not known."""
        if (told := explain_value(key, self.value)) is not None:
            return f"; {told}"
        near = difflib.get_close_matches(self.value, self.choices, n=1)
        meant = find_value(self.value, self.choices) or next(iter(near), None)
        return "" if meant is None else f"; did you mean {meant!r}?"


def make_converter(sections: Iterable[type], *, is_open: bool = False) -> Converter:
    """Make what structures nested dicts: no unknown keys, no coercion, and the checks of the fields.

    Args:
        sections: Classes whose fields have a `Check` or None in their metadata, under "check"; each after those that
            it is made of.
        is_open: Leave keys alone that the classes do not have.
    """
    converter = cattrs.Converter(forbid_extra_keys=not is_open)
    for kind in _WORDS:
        converter.register_structure_hook(kind, _strict(kind))
    for origin, hook in ((Literal, _structure_choice), (tuple, _structure_tuple), (Mapping, _structure_names)):
        converter.register_structure_hook_func(functools.partial(_is_plain, origin), hook)
    for section in sections:
        hooks = {
            field.name: override(struct_hook=_structure_field(converter, field))
            for field in attrs.fields(attrs.resolve_types(section))
        }
        structure: Callable[[Any, Any], Any] = make_dict_structure_fn(
            section,
            converter,
            _cattrs_forbid_extra_keys=not is_open,
            **hooks,  # type: ignore[arg-type]
        )
        converter.register_structure_hook(
            section, _only_tables(structure, "an object" if is_open else "a table of keys")
        )
    return converter


@attrs.frozen
class Known:
    """What a recipe may have.

    Attributes:
        sections: Names of all sections.
        keys: All keys, dotted.
        choices: Of each key that has one of a few words, those.
    """

    sections: list[str] = attrs.field(factory=list)
    keys: list[str] = attrs.field(factory=list)
    choices: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)


def explain(error: BaseException, known: Known, raw: Any, where: str = "") -> Iterator[str]:
    """Say everything that is wrong, a line for each: key, value found, what is expected.

    Args:
        error: What the converter raised.
        known: What a recipe may have.
        raw: What was structured.
        where: The dotted key that the error is of; empty for the whole.
    """
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        noted, rest = error.group_exceptions()
        for inner, note in noted:
            name = getattr(note, "name", None)
            key = where if name is None else f"{where}.{name}".lstrip(".")
            if isinstance(note, IterableValidationNote):
                key = f"{where}[{note.index}]"
            within = raw[note.index] if name is None else raw.get(name)
            yield from explain(inner, known, within, key)
        for inner in rest:
            yield from explain(inner, known, raw, where)
    elif isinstance(error, ForbiddenExtraKeysError):
        for extra in sorted(error.extra_fields):
            key = f"{where}.{extra}".lstrip(".")
            if where:
                yield f"{key}: unknown key; {_nearest_of_part(key, known, raw[extra])}"
            else:
                hint = explain_section(extra) or _explain_named(extra, known, raw[extra])
                yield f"{key}: unknown section; {hint or _nearest_section(key, known.sections)}"
    elif isinstance(error, KeyError):
        key = f"{where}.{error.args[0]}".lstrip(".") if not where.endswith(str(error.args[0])) else where
        yield f"{key}: missing; it has no default"
    else:
        yield f"{where}: {error}{error.hint(where) if isinstance(error, ChoiceError) else ''}"


def _nearest_of_part(key: str, known: Known, value: Any) -> str:
    """As `nearest`, also for a key of a section that stands in a list."""
    place, name = key.rsplit(".", 1)
    listed = _LISTED.fullmatch(place)
    if listed is None:
        return nearest(key, known, value)
    own = [other for other in known.keys if other.startswith(f"{listed[1]}.")]
    close = difflib.get_close_matches(name, [other.rpartition(".")[2] for other in own], n=1)
    return f"did you mean {place}.{close[0]}?" if close else f"known keys: {', '.join(own)}"


def nearest(key: str, known: Known, value: Any) -> str:
    """Point to the key that may have been meant, with its value, or say what else is written; or name what there is."""
    name = key.rpartition(".")[2]
    namesakes = [other for other in known.keys if other.rpartition(".")[2] == name]
    if not namesakes and (hint := _explain_named(name, known, value)) is not None:
        return hint
    close = namesakes if len(namesakes) == 1 else difflib.get_close_matches(key, known.keys, n=1, cutoff=0.5)
    if close:
        return _ask(close[0], known, value)
    section, dot, _ = key.rpartition(".")
    if siblings := [other for other in known.keys if dot and other.startswith(section + dot)]:
        return f"known keys: {', '.join(siblings)}"
    return _nearest_section("", list(dict.fromkeys(other.partition(".")[0] for other in known.keys)))


def _nearest_section(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known sections: {', '.join(known)}"


def _explain_named(name: str, known: Known, value: Any) -> str | None:
    """Say what is written for a name that other trainers have; None where that is not known."""
    found = find_key(name, known.keys, is_list=isinstance(value, list))
    return explain_name(name) if found is None else _ask(found, known, value)


def _ask(key: str, known: Known, value: Any) -> str:
    """Ask whether a key was meant; where it has no such value, say at once what is written for that."""
    choices = known.choices.get(key, ())
    if isinstance(value, str) and choices and value not in choices:
        if (told := explain_value(key, value)) is not None:
            return f"{key} is meant, which has no {show(value)}: {told}"
        if (meant := find_value(value, choices)) is not None:
            return f'did you mean {key} = "{meant}"?'
    return f"did you mean {key}?"


def _strict(kind: Any) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        accepted = (int, float) if kind is float else (kind,)
        if type(value) not in accepted:
            msg = f"found {show(value)}, expected {_WORDS[kind]}"
            raise TypeError(msg)
        if type(value) is int and not -BEYOND <= value < BEYOND:
            msg = f"found {show(value)}, expected a number of 64 bits, as all of TOML's integers are"
            raise TypeError(msg)
        if kind is float and not math.isfinite(value):
            msg = f"found {show(value)}, expected a finite number"
            raise TypeError(msg)
        return kind(value)

    return structure


def _structure_choice(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if value not in choices:
        raise ChoiceError(value, choices)
    return value


def _structure_tuple(value: Any, kind: Any) -> Any:
    kinds = get_args(kind)
    open_ended = kinds[-1] is Ellipsis
    words = _WORDS[kinds[0]].split()[-1]
    expected = f"a list of {words}s" if open_ended else f"a list of {len(kinds)} {words}s"
    if not isinstance(value, (list, tuple)) or not (open_ended or len(value) == len(kinds)):
        alone = f"; write [{json.dumps(value)}]" if open_ended and type(value) is kinds[0] else ""
        msg = f"found {show(value)}, expected {expected}{alone}"
        raise TypeError(msg)
    try:
        return tuple(_strict(kinds[0])(item, kinds[0]) for item in value)
    except TypeError:
        msg = f"found {show(value)}, expected {expected}"
        raise TypeError(msg) from None


def _structure_names(value: Any, _: Any) -> Any:
    """Take a table of texts."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value.values()):
        msg = f'found {show(value)}, expected a table of names such as {{imgs = "images"}}'
        raise TypeError(msg)
    return Names(value)


def _find_respelled(value: Any) -> Any:
    """Find what TOML reads into another spelling within a table that is text to be learned: a float, a date."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, (dict, list)):
        return next((found for found in map(_find_respelled, inner) if found is not None), None)
    return None if isinstance(value, (str, int)) else value


def _structure_field(converter: Converter, field: "attrs.Attribute[Any]") -> Callable[[Any, Any], Any]:
    kinds = get_args(field.type) if type(None) in get_args(field.type) else ()
    kind: Any = kinds[0] if kinds else field.type
    check: Check | None = field.metadata["check"]

    def structure(value: Any, _: Any) -> Any:
        if value is None and kinds:
            # In JSON null says that there is none; TOML has no word for it.
            return None
        if field.name == "custom_prompt_format" and isinstance(value, (dict, list)):
            # In TOML a table reads better than JSON within a string.
            if (respelled := _find_respelled(value)) is not None:
                msg = f"found {show(respelled)} in a table, and TOML does not say how it is written; put it in quotes"
                raise ValueError(msg)
            value = json.dumps(value)
        if get_origin(kind) is tuple and attrs.has(get_args(kind)[0]) and not isinstance(value, (list, tuple)):
            msg = f"found {show(value)}, expected tables [[...]]"
            raise TypeError(msg)
        result = converter.structure(value, kind)
        if check and (problem := check(result)):
            msg = f"found {show(value)}, {problem}"
            raise ValueError(msg)
        return result

    return structure


def _is_plain(origin: Any, kind: Any) -> bool:
    """Whether a type has an origin, and is no list of sections."""
    return bool(get_origin(kind) is origin) and not any(map(attrs.has, get_args(kind)))


def _only_tables(structure: Callable[[Any, Any], Any], words: str) -> Callable[[Any, Any], Any]:
    def structure_section(value: Any, kind: Any) -> Any:
        if not isinstance(value, Mapping):
            msg = f"found {show(value)}, expected {words}"
            raise TypeError(msg)
        return structure(value, kind)

    return structure_section


def plain(value: Any) -> Any:
    """Write a value as TOML has it: tuples as lists."""
    return list(value) if isinstance(value, tuple) else value
