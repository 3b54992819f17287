"""Where each of a model's parameters lies in published tensors: read off arrays that say where their numbers stood.

mlx-vlm renames, transposes, splits, joins and stacks published tensors in code of each family. That code is run on
arrays whose numbers are the tensor's own number, or the place along one of its axes. What comes out says of each
number of a parameter which tensor and which place it was taken from.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Shapes = Mapping[str, tuple[int, ...]]
Sanitize = Callable[[Mapping[str, mx.array]], dict[str, mx.array]]

SPACING = 8.0
"""Between the numbers of two tensors, so that what is added to one (the 1 of some norms) can be told."""

MOST_BLOCKS = 4096
"""Parameters put together from more pieces are not described."""


@attrs.frozen
class Piece:
    """A part of a parameter and the part of a published tensor that it is.

    Attributes:
        name: The published tensor.
        source: Which part of it, one slice an axis.
        target: Which part of the parameter, one slice an axis.
        order: The tensor's axes in the order in which they are read; a reshape to the target's size follows.
        offset: What is added to each number.
    """

    name: str
    source: tuple[slice, ...]
    target: tuple[slice, ...]
    order: tuple[int, ...]
    offset: float = 0.0

    @property
    def size(self) -> tuple[int, ...]:
        """The shape of the part within the parameter."""
        return tuple(part.stop - part.start for part in self.target)

    def read(self, tensor: Any) -> Any:
        """Take this part of a parameter out of the published tensor; without the offset."""
        return tensor[self.source].transpose(self.order).reshape(self.size)

    def write(self, value: Any) -> Any:
        """Lay out this part of an array shaped as the parameter as the published tensor has it.

        Args:
            value: All of the parameter's array, or of a change of it.

        Returns:
            What stands at `source` in the published tensor.
        """
        shape = [len(range(*part.indices(1 << 62))) for part in self.source]
        turned = value[self.target].reshape([shape[axis] for axis in self.order])
        return turned.transpose(tuple(int(place) for place in np.argsort(self.order)))


def trace(sanitize: Sanitize, shapes: Shapes) -> dict[str, tuple[Piece, ...]]:
    """Find the pieces of all parameters.

    Args:
        sanitize: Renames published weights; see `Sanitizer`.
        shapes: The published tensors.

    Returns:
        The pieces of each parameter by its name in the model. Parameters that are computed in another way than by
        taking numbers from published tensors are left out.

    Raises:
        Exception: What the family's code raises if the names or shapes are not those that it knows.
    """
    names = list(shapes)
    n_axes = max((len(shape) for shape in shapes.values()), default=0)
    numbers = [float(place + 1) for place in range(len(names))]
    marks = [list(zip(names, given, strict=True)) for given in (numbers, numbers[::-1])]
    of_tensor = [
        sanitize({name: mx.broadcast_to(mx.array(SPACING * mark), shapes[name]) for name, mark in pairs})
        for pairs in marks
    ]
    along = [sanitize({name: _places(shapes[name], axis) for name in names}) for axis in range(n_axes)]
    found: dict[str, tuple[Piece, ...]] = {}
    for parameter in list(of_tensor[0]):
        # Taken out, so that no more than one is in memory.
        outputs = [out.pop(parameter, None) for out in (*of_tensor, *along)]
        if any(value is None for value in outputs) or len({value.shape for value in outputs if value is not None}) > 1:
            continue
        reading = _Reading([value for value in outputs if value is not None], names, shapes)
        if pieces := reading.pieces():
            found[parameter] = pieces
    return found


def _places(shape: tuple[int, ...], axis: int) -> mx.array:
    """Say of each place of a tensor how far along an axis it is; 0 where there is no such axis."""
    if axis >= len(shape):
        return mx.broadcast_to(mx.array(0.0), shape)
    line = mx.arange(shape[axis], dtype=mx.float32)
    return mx.broadcast_to(line.reshape([-1 if other == axis else 1 for other in range(len(shape))]), shape)


class _Reading:
    """What came out for one parameter."""

    def __init__(self, outputs: Sequence[mx.array], names: Sequence[str], shapes: Shapes) -> None:
        self.outputs, self.names, self.shapes = outputs, names, shapes
        self.shape = outputs[0].shape

    def at(self, place: Sequence[int]) -> Array:
        """Read all outputs at one place."""
        return np.array([value[tuple(place)].item() for value in self.outputs], dtype=np.float64)

    def line(self, axis: int) -> Array:
        """Read all outputs along an axis, from the first place: f[outputs, length]."""
        index = tuple(slice(None) if other == axis else 0 for other in range(len(self.shape)))
        lines = [value[index].astype(mx.float32) for value in self.outputs]
        mx.eval(lines)
        return np.stack([np.array(line) for line in lines])

    def pieces(self) -> tuple[Piece, ...]:
        """Describe the parameter; nothing if it cannot be."""
        if 0 in self.shape:
            return ()
        lines = [self.line(axis) for axis in range(len(self.shape))]
        cuts = [list(_segments(line)) for line in lines]
        if math.prod(len(cut) for cut in cuts) > MOST_BLOCKS:
            return ()
        pieces = [self._piece(block, lines, cuts) for block in itertools.product(*cuts)]
        return tuple(piece for piece in pieces if piece) if all(pieces) else ()

    def _piece(self, block: Sequence[tuple[int, int]], lines: Sequence[Array], cuts: Sequence[Any]) -> Piece | None:
        """Describe one block, from its two outermost corners and the lines that lead along it."""
        first = [start for start, _ in block]
        last = [stop - 1 for _, stop in block]
        cut = [axis for axis, segments in enumerate(cuts) if len(segments) > 1]
        corner = lines[cut[0]][:, first[cut[0]]] if len(cut) == 1 else self.at(first)
        found = self._source(corner)
        if found is None:
            return None
        name, offset = found
        shape = self.shapes[name]
        begin = np.rint(corner[2 : 2 + len(shape)] - offset).astype(int)
        steps = [np.zeros(len(shape), dtype=int) for _ in block]
        for axis, (start, stop) in enumerate(block):
            if stop - start > 1:
                moved = lines[axis][2 : 2 + len(shape), start + 1] - lines[axis][2 : 2 + len(shape), start]
                steps[axis] = np.rint(moved).astype(int)
        end = begin + sum(step * (stop - start - 1) for step, (start, stop) in zip(steps, block, strict=True))
        far = self.at(last)
        if self._source(far) != found or not np.array_equal(np.rint(far[2 : 2 + len(shape)] - offset), end):
            return None
        return _describe(name, offset, block, begin, steps, shape)

    def _source(self, values: Array) -> tuple[str, float] | None:
        """Name the tensor that numbers come from and what was added; None if they come from no one."""
        number, turned = np.rint(values[:2] / SPACING).astype(int)
        offset = float(values[0] - SPACING * number)
        count = len(self.names)
        is_one = 1 <= number <= count and turned == count + 1 - number
        if not is_one or abs(values[1] - SPACING * turned - offset) > 1e-6:  # noqa: PLR2004 - rounding
            return None
        return self.names[number - 1], offset


def _segments(line: Array) -> Iterator[tuple[int, int]]:
    """Cut a line, f[outputs, length], where its tensor changes or its places do not go on as they did."""
    moved = np.diff(line, axis=1)
    length, start = line.shape[1], 0
    while start < length:
        stop = start + 1
        if stop < length and not moved[:2, start].any():
            broken = np.any(moved[:, start:] != moved[:, start : start + 1], axis=0).nonzero()[0]
            stop = start + 1 + int(broken[0]) if len(broken) else length
        yield start, stop
        start = stop


def _describe(
    name: str,
    offset: float,
    block: Sequence[tuple[int, int]],
    begin: Array,
    steps: Sequence[Array],
    shape: tuple[int, ...],
) -> Piece | None:
    """Write a piece, if each of its axes is one of the tensor's, taken forwards."""
    order: list[int] = []
    source = [slice(int(place), int(place) + 1) for place in begin]
    for (start, stop), step in zip(block, steps, strict=True):
        moving = step.nonzero()[0]
        if stop - start == 1:
            continue
        if len(moving) != 1 or moving[0] in order or step[moving[0]] < 1:
            return None
        axis = int(moving[0])
        order.append(axis)
        by = int(step[axis])
        source[axis] = slice(int(begin[axis]), int(begin[axis]) + (stop - start - 1) * by + 1, None if by == 1 else by)
    rest = [axis for axis in range(len(shape)) if axis not in order]
    target = tuple(slice(start, stop) for start, stop in block)
    return Piece(name, tuple(source), target, (*rest, *order), offset)
