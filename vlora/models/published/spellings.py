"""Published names found for a model whose folder has mlx-vlm's own: spellings are tried on the family's renaming.

A folder that mlx-vlm converted does not say how its weights were published. The family's renaming code says it the
other way round: which names it turns into the model's. Candidates are made of the words of that code, and one is taken
if the code turns it into the parameter that is looked for.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx

from ...adapters.names import HEADS
from .sanitizing import PARTS
from .words import Words, read_words

Sanitize = Callable[[Mapping[str, mx.array]], dict[str, mx.array]]

KINDS = ("Model", *(kind for kind, _ in PARTS))

PREFERRED = ("model.language_model.", "model.visual.", "model.vision_tower.", "model.", HEADS[0])
"""How names begin in checkpoints, the more recent spelling first."""

DEEPEST = 5
"""Parts at the beginning of a name that a renaming replaces, at most."""

MOST_INNER = 300
MARK = 7.0


class Spellings:
    """Finds the published names of matrices."""

    def __init__(
        self,
        sanitize: Sanitize,
        package: Any,
        shapes: Mapping[str, tuple[int, ...]],
        is_known: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Read a family's words.

        Args:
            sanitize: Its renaming; see `Sanitizer`.
            package: Its package in mlx-vlm.
            shapes: The model's parameters.
            is_known: Whether a published name is known from elsewhere; such names are tried first.
        """
        self._is_known = is_known
        self._sanitize = sanitize
        self._words = read_words(package, KINDS)
        self._shapes = shapes
        self._learned: list[tuple[str, str]] = []
        self._known: dict[str, str] = {}
        whole = {name: mx.broadcast_to(mx.array(0.0), shape) for name, shape in shapes.items()}
        flat = {name: value for name, value in whole.items() if value.ndim <= 2}  # noqa: PLR2004 - no convolutions
        # Some code looks at other weights first, and some takes the model's own names as a sign that all are.
        self._surroundings: tuple[Mapping[str, mx.array], ...] = ({}, flat, whole)

    def find(self, parameter: str) -> str | None:
        """Name the published tensor that is a parameter as it stands; None if none is found.

        A parameter whose name the code leaves alone is published under it.
        """
        template = _blank(parameter)
        if template not in self._known and (found := self._search(parameter)):
            self._known[template] = _with_numbers(found, parameter)
        if template not in self._known:
            return None
        named = _filled(self._known[template], parameter)
        return named if self.is_published(named, parameter) else self._search(parameter)

    def _search(self, parameter: str) -> str | None:
        for candidate in self._candidates(parameter):
            if self.is_published(candidate, parameter):
                self._learn(candidate, parameter)
                return candidate
        if not self.is_published(parameter, parameter):
            return None
        # What begins alike is left alone, too; no need to try all spellings of it first.
        self._learned.insert(0, (_beginning(parameter), _beginning(parameter)))
        return parameter

    def is_published(self, candidate: str, parameter: str) -> bool:
        """Whether the code turns a tensor of this name into the parameter."""
        shape = self._shapes[parameter]
        for present in self._surroundings:
            others = {name: value for name, value in present.items() if name != parameter}
            try:
                renamed = self._sanitize({**others, candidate: mx.broadcast_to(mx.array(MARK), shape)})
            except Exception:  # noqa: BLE001, S112 - code of many authors, given names that it does not know
                continue
            value = renamed.get(parameter)
            if value is not None and value.shape == shape and value.reshape(-1)[0].item() == MARK:
                return True
        return False

    def _learn(self, candidate: str, parameter: str) -> None:
        """Keep how a name begins in both spellings: those beside it begin alike."""
        same = 0
        while same < min(len(candidate), len(parameter)) and candidate[-1 - same] == parameter[-1 - same]:
            same += 1
        change = (parameter[: len(parameter) - same], candidate[: len(candidate) - same])
        if change not in self._learned:
            self._learned.insert(0, change)

    def _candidates(self, parameter: str) -> Iterator[str]:
        learned = [old + parameter[len(new) :] for new, old in self._learned if parameter.startswith(new)]
        made = {name for name in _spell(parameter, self._words) if name not in self._shapes}
        ordered = [*learned, *sorted(made, key=_preference)]
        if self._is_known(parameter):
            ordered.insert(0, parameter)
        yield from dict.fromkeys([*filter(self._is_known, ordered), *ordered])


def _preference(name: str) -> tuple[int, int, str]:
    place = next((place for place, begin in enumerate(PREFERRED) if name.startswith(begin)), len(PREFERRED))
    return place, len(name), name


def _spell(parameter: str, words: Words) -> Iterator[str]:
    """Spell a name in all ways that the words allow: pairs are turned back, and other words put at its beginning."""
    inner = {parameter}
    for _ in range(3):
        for name in list(inner):
            inner |= {name.replace(new, old, 1) for old, new in words.pairs if new in name}
            if len(inner) > MOST_INNER:
                break
    for name in inner:
        yield name
        parts = name.split(".")
        for depth in range(min(len(parts), DEEPEST)):
            rest = ".".join(parts[depth:])
            yield rest
            yield from (f"{word.rstrip('.')}.{rest}" for word in words.names)


def _beginning(name: str) -> str:
    """Give the parts of a name in front of its first number."""
    return re.split(r"(?<=\.)\d+(?=\.)", name)[0] if _blank(name) != name else name


def _blank(name: str) -> str:
    """Write a name without its numbers."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)


def _with_numbers(found: str, parameter: str) -> str:
    """Mark which numbers of a published name are those of the parameter's, `{0}` the first of them."""
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", parameter)
    place = 0
    parts = []
    for part in found.split("."):
        if place < len(numbers) and part == numbers[place]:
            parts.append(f"{{{place}}}")
            place += 1
        else:
            parts.append(part)
    return ".".join(parts)


def _filled(template: str, parameter: str) -> str:
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", parameter)
    return template.format(*numbers)
