"""The names and pairs of names that a family's renaming code speaks of, read off its source."""

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any

import attrs

PLAIN = re.compile(r"[\w.]+")
"""What names of parameters consist of."""

OURS = ("mlx_vlm", "mlx_lm")
"""Parts of the paths of files whose functions are read."""


@attrs.frozen
class Words:
    """What a family's renaming code speaks of.

    Attributes:
        names: Names and parts of names.
        pairs: Two texts that stand together, as a pattern and what replaces it do: (published, model's).
    """

    names: frozenset[str]
    pairs: frozenset[tuple[str, str]]


def read_words(package: Any, kinds: tuple[str, ...]) -> Words:
    """Collect the words of all functions that the renaming of a family's classes consists of.

    Args:
        package: Its package in mlx-vlm.
        kinds: Names of its classes that have a `sanitize`.
    """
    functions: set[types.FunctionType] = set()
    for kind in kinds:
        owner: Any = getattr(package, kind, None)
        if hasattr(owner, "sanitize"):
            _collect(owner.sanitize, owner, functions)
    texts: list[str] = []
    pairs: list[tuple[str, str]] = []
    for function in functions:
        for value in _values(function):
            texts += value if isinstance(value, list) else []
            pairs += [value] if isinstance(value, tuple) else []
    texts += [text for pair in pairs for text in pair]
    names = frozenset(text for text in texts if PLAIN.fullmatch(text))
    return Words(names, frozenset((old, new) for old, new in pairs if new and old != new))


def _collect(function: Any, owner: Any, found: set[types.FunctionType]) -> None:
    """Add a function and those that it calls by name."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(function, types.FunctionType) or function in found:
        return
    if not any(part in function.__code__.co_filename for part in OURS):
        return
    found.add(function)
    for name in set(_called(function.__code__)):
        near = function.__globals__.get(name)
        if isinstance(near, type) and hasattr(near, "sanitize"):
            _collect(near.sanitize, near, found)
        for candidate in (near, getattr(owner, name, None)):
            if isinstance(candidate, types.FunctionType):
                _collect(candidate, owner, found)


def _called(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _called(constant)


def _values(function: types.FunctionType) -> Iterator[list[str] | tuple[str, str]]:
    """Yield the single texts and the pairs of texts of a function, and of the constants that it names."""
    for name in set(_called(function.__code__)):
        yield from _of_value(function.__globals__.get(name))
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Constant):
            yield [_plain(node.value)] if isinstance(node.value, str) else []
        elif isinstance(node, (ast.Call, ast.Tuple, ast.List)):
            parts = node.args if isinstance(node, ast.Call) else node.elts
            yield from _as_pair([part.value for part in parts if isinstance(part, ast.Constant)])
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    yield from _as_pair([key.value, value.value])


def _of_value(value: Any) -> Iterator[list[str] | tuple[str, str]]:
    """Yield those of a constant of a module."""
    if isinstance(value, (str, re.Pattern)):
        yield [_plain(value)]
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _of_value(pair)
    elif isinstance(value, (tuple, list, set, frozenset)):
        yield from _as_pair(list(value))
        for part in value:
            yield from _of_value(part)


def _as_pair(values: list[Any]) -> Iterator[tuple[str, str]]:
    texts = [_plain(value) for value in values if isinstance(value, (str, re.Pattern))]
    if len(texts) >= 2:  # noqa: PLR2004 - what is replaced and by what; `re.sub` takes a third
        yield texts[0], texts[1]


def _plain(text: "str | re.Pattern[str]") -> str:
    """Write a regular expression as the text that it matches, where it is one."""
    pattern = text.pattern if isinstance(text, re.Pattern) else text
    return re.sub(r"\\(.)", r"\1", pattern).strip("^$")
