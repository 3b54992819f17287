"""Which numbers of a model's parameters are which of transformers': both are taken from the same published tensors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from .tracing import Piece

Box = tuple[slice, ...]


@attrs.frozen
class Link:
    """A part of a model's parameter and the same part of one of transformers'.

    Attributes:
        own: The model's parameter.
        own_box: Which part of it.
        other: transformers' parameter.
        other_box: Which part of it.
        turn: The axes of the model's part, those of length 1 left out, in the order in which the other has them.
        shape: The shape of the whole of transformers' parameter.
        offset: What the model's numbers are more than transformers'.
    """

    own: str
    own_box: Box
    other: str
    other_box: Box
    turn: tuple[int, ...]
    shape: tuple[int, ...]
    offset: float = 0.0

    def give(self, value: Any) -> Any:
        """Take this part out of the model's array, laid out as transformers has it."""
        part = value[self.own_box]
        part = part.reshape([length for length in part.shape if length > 1]).transpose(self.turn)
        return part.reshape(_sizes(self.other_box)) - self.offset

    def take(self, value: Any) -> Any:
        """Take this part out of transformers' array, laid out as the model has it."""
        part = value[self.other_box]
        part = part.reshape([length for length in part.shape if length > 1])
        part = part.transpose(tuple(int(place) for place in np.argsort(self.turn)))
        return part.reshape(_sizes(self.own_box)) + self.offset


def find_links(
    own: Mapping[str, Sequence[Piece]], other: Mapping[str, Sequence[Piece]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[Link, ...]]:
    """Link parameters of a model with those of transformers.

    Args:
        own: The pieces of the model's parameters.
        other: The pieces of transformers'.
        shapes: The shapes of transformers' parameters.

    Returns:
        The links of each parameter of the model that is wholly found; others are left out.
    """
    by_tensor: dict[str, list[tuple[str, Piece]]] = {}
    for name, pieces in other.items():
        for piece in pieces:
            by_tensor.setdefault(piece.name, []).append((name, piece))
    found = {}
    for parameter, pieces in own.items():
        links = [
            link
            for piece in pieces
            for name, candidate in by_tensor.get(piece.name, ())
            if (link := _link(parameter, piece, name, candidate, shapes[name])) is not None
        ]
        if sum(_count(link.own_box) for link in links) == sum(_count(piece.target) for piece in pieces):
            found[parameter] = tuple(links)
    return found


def assemble(links: Iterable[Link], values: Mapping[str, Any]) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Put transformers' arrays together from a model's.

    Args:
        links: Those of the parameters.
        values: The model's arrays by name.

    Returns:
        transformers' parameters that are wholly covered.
    """
    made: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
    missing: dict[str, int] = {}
    for link in links:
        value = np.asarray(values[link.own])
        if link.other not in made:
            made[link.other] = np.zeros(link.shape, dtype=value.dtype)
            missing[link.other] = made[link.other].size
        part = link.give(value)
        made[link.other][link.other_box] = part
        missing[link.other] -= part.size
    return {name: value for name, value in made.items() if missing[name] == 0}


def _link(parameter: str, own: Piece, name: str, other: Piece, shape: tuple[int, ...]) -> Link | None:
    """Link what two pieces share; None if that is nothing, or cannot be described."""
    shared = [_meet(mine, theirs) for mine, theirs in zip(own.source, other.source, strict=True)]
    if any(part is None or len(part) == 0 for part in shared):
        return None
    own_box, own_axes = _place(own, shared)
    other_box, other_axes = _place(other, shared)
    long = [axis for axis, part in enumerate(shared) if part is not None and len(part) > 1]
    turn = tuple([axis for axis in own_axes if axis in long].index(axis) for axis in other_axes if axis in long)
    return Link(parameter, own_box, name, other_box, turn, shape, own.offset - other.offset)


def _meet(first: slice, second: slice) -> range | None:
    """Find the places that two slices share; None if they follow one another in no steps."""
    one, two = _range(first), _range(second)
    if one.step == two.step == 1:
        start = max(one.start, two.start)
        return range(start, max(min(one.stop, two.stop), start))
    places = sorted(set(one) & set(two))
    steps = set(np.diff(places).tolist()) or {1}
    return range(places[0], places[-1] + 1, steps.pop()) if places and len(steps) == 1 else None


def _place(piece: Piece, shared: Sequence[range | None]) -> tuple[Box, list[int]]:
    """Say where the shared part of a tensor lies in the parameter, and which of the tensor's axes its axes are."""
    moving = [axis for axis in piece.order if len(_range(piece.source[axis])) > 1]
    axes = iter(moving)
    box = []
    for part in piece.target:
        if part.stop - part.start == 1:
            box.append(part)
            continue
        axis = next(axes)
        whole, within = _range(piece.source[axis]), shared[axis]
        assert within is not None  # noqa: S101 - the caller has looked
        step = max(1, within.step // whole.step) if len(within) > 1 else 1
        start = part.start + (within.start - whole.start) // whole.step
        box.append(slice(start, start + (len(within) - 1) * step + 1, None if step == 1 else step))
    return tuple(box), moving


def _range(part: slice) -> range:
    return range(part.start, part.stop, part.step or 1)


def _sizes(box: Box) -> tuple[int, ...]:
    return tuple(len(_range(part)) for part in box)


def _count(box: Box) -> int:
    return int(np.prod(_sizes(box), dtype=np.int64))
