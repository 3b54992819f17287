"""Multiple choice: which option an answer names. Pure."""

import ast
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from ..prediction import Prediction
from .text import normalize

COLUMNS = ("choices", "options")
"""Columns that may hold the options."""

_AROUND = string.whitespace + "()[].:,*\"'`"
_LEADING = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])(?:[.):]|\s*[-\u2013]\s))\s*(?=\S)")
_DECLARED = re.compile(
    r"\b(?i:answer|option|choice)\b(?:\s+is\b)?\s*[:=]?\s*[(\[*\"'`]*([A-Z](?![\w'-])|[a-z](?=\W*$))", re.MULTILINE
)
_IN_BRACKETS = re.compile(r"[(\[]([A-Z])[)\]]")
_BY_ITSELF = re.compile(r"(?<![\w'-])([A-Z])(?![\w'-])(?!(?<=[AI])\s(?!or\b|and\b)\w)")
"""Before other words A and I are words, too."""


def choice_accuracy(prediction: Prediction) -> float | None:
    """Whether the answer names the expected option, by its letter or by its text.

    Options are those of the row's column `choices` or `options` (a list, or an object of letters to texts), or of the
    columns A, B, C and so on. Without any, letters are compared. A row whose expected answer names none is left out.
    """
    options = find_options(prediction.columns)
    expected = choose(prediction.expected, options)
    return None if expected is None else float(choose(prediction.answer, options) == expected)


def find_options(columns: Mapping[str, Any]) -> dict[str, str]:
    """Give the letters of a row's options and their texts; none where it has no options."""
    for name in COLUMNS:
        found = _parse(columns.get(name))
        if isinstance(found, Mapping) and {"label", "text"} <= found.keys():
            # As ARC has it.
            found = dict(zip(found["label"], found["text"], strict=False))
        if isinstance(found, Mapping):
            return {str(letter).upper(): str(text) for letter, text in found.items()}
        if isinstance(found, Sequence) and not isinstance(found, str) and found:
            return {letter: str(text) for letter, text in zip(string.ascii_uppercase, found, strict=False)}
    letters = [letter for letter in string.ascii_uppercase if isinstance(columns.get(letter), str)]
    return {letter: columns[letter] for letter in letters} if {"A", "B"} <= set(letters) else {}


def _parse(value: Any) -> Any:
    """Read a list that stands in a text, as MMMU has it."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def choose(text: str, options: Mapping[str, str]) -> str | None:
    """Give the letter that a text names, or None.

    In this order: the letter alone; an option's text; a letter that the text begins with ("B. a dog"); "the answer is
    B", the last such; a letter in brackets, or one by itself, if there is only one; an option's text within, if it is
    the only one.
    """
    allowed = set(options) or set(string.ascii_uppercase)
    # ARC has numbers for some letters.
    if (label := text.strip(_AROUND).upper()) in allowed:
        return label
    plain = normalize(text).rstrip(".")
    same = [letter for letter, option in options.items() if normalize(option).rstrip(".") == plain]
    if len(same) == 1:
        return same[0]
    if (leading := _LEADING.match(text)) and str(leading[1] or leading[2]).upper() in allowed:
        return str(leading[1] or leading[2]).upper()
    declared: list[str] = [letter.upper() for letter in _DECLARED.findall(text) if letter.upper() in allowed]
    if declared:
        return declared[-1]
    for pattern in (_IN_BRACKETS, _BY_ITSELF):
        found: set[str] = set(pattern.findall(text)) & allowed
        if len(found) == 1:
            return found.pop()
    within = [letter for letter, option in options.items() if _stands_in(normalize(option), plain)]
    return within[0] if len(within) == 1 else None


def _stands_in(option: str, text: str) -> bool:
    return bool(option) and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text) is not None
