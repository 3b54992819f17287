"""Boxes and points in texts, written in the format of each model family. Pure.

A row has them in the column `objects`, as in ms-swift: `bbox`, a list of [x1, y1, x2, y2] or [x, y]; `ref`, a list of
names; `bbox_type`, "real" for pixels of the image as it is stored, upright (the default), or "norm1" for shares of its
sides; `image_id`, the number of each box's image from 0 on. In its texts `<bbox>` stands for the next box and
`<ref-object>` for the next name. Boxes are kept as shares of the sides, which resizing does not change, until they are
written.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ...errors import SampleError
from ...types import Objects, Turn
from .image_sizes import Size
from .json_text import parse_if_json, show

BOX_MARK, NAME_MARK = "<bbox>", "<ref-object>"
SLACK = 1.0
"""Pixels by which a box may exceed the image, for rounding errors."""

KEYS = ("bbox", "ref", "bbox_type", "image_id")
REAL, NORM = "real", "norm1"
_MARKS = re.compile(f"({re.escape(BOX_MARK)}|{re.escape(NAME_MARK)})")
_LENGTHS = (2, 4)


@attrs.frozen(kw_only=True)
class BoxStyle:
    """How a family writes boxes.

    Attributes:
        name: Name of the format, for the comparison of answers (`vlora.evaluation.measures.boxes`).
        scale: Coordinate of the far side of an image; None for pixels of the image that the model gets.
        write_box: Writes [x1, y1, x2, y2] or [x, y], in whole numbers.
        write_name: Writes the name of a box's object.
        has_points: Whether the format can write points [x, y].
        in_bins: Whether a coordinate is the index of a bin, from 0 to `scale` - 1; else it is rounded to an integer.
    """

    name: str
    scale: int | None
    write_box: Callable[[Sequence[int]], str]
    write_name: Callable[[str], str] = str
    has_points: bool = True
    in_bins: bool = False


def _in_pairs(numbers: Sequence[int]) -> str:
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return ",".join(f"({x},{y})" for x, y in pairs)


def _in_list(numbers: Sequence[int]) -> str:
    return f"[{', '.join(map(str, numbers))}]"


def _in_tokens(numbers: Sequence[int]) -> str:
    x1, y1, x2, y2 = numbers
    return "".join(f"<loc{number:04d}>" for number in (y1, x1, y2, x2))


QWEN2_BOXES = BoxStyle(
    name="qwen2",
    scale=1000,
    write_box=lambda numbers: f"<|box_start|>{_in_pairs(numbers)}<|box_end|>",
    write_name=lambda name: f"<|object_ref_start|>{name}<|object_ref_end|>",
)
"""Qwen2-VL: thousandths between special tokens."""

QWEN25_BOXES = BoxStyle(name="qwen25", scale=None, write_box=_in_list)
"""Qwen2.5-VL: pixels of the image as it is resized for the tower."""

QWEN3_BOXES = BoxStyle(name="qwen3", scale=1000, write_box=_in_list)
"""Qwen3-VL and later models: thousandths again, as plain text."""

INTERNVL_BOXES = BoxStyle(
    name="internvl",
    scale=1000,
    write_box=lambda numbers: f"<box>[{_in_list(numbers)}]</box>",
    write_name=lambda name: f"<ref>{name}</ref>",
)
"""InternVL: thousandths in a list of lists."""

PALIGEMMA_BOXES = BoxStyle(name="paligemma", scale=1023, write_box=_in_tokens, has_points=False)
"""PaliGemma: 1,024 tokens for places, y before x."""

DEEPSEEK_BOXES = BoxStyle(
    name="deepseek",
    scale=999,
    write_box=lambda numbers: f"<|det|>[{_in_list(numbers)}]<|/det|>",
    write_name=lambda name: f"<|ref|>{name}<|/ref|>",
)
"""DeepSeek-VL2: 0 to 999 in a list of lists."""

FLORENCE_BOXES = BoxStyle(
    name="florence",
    scale=1000,
    in_bins=True,
    write_box=lambda numbers: "".join(f"<loc_{number}>" for number in numbers),
)
"""Florence-2: 1,000 tokens for places."""


def has_marks(text: str) -> bool:
    """Whether a text has a mark for a box or a name."""
    return _MARKS.search(text) is not None


def read_objects(value: Any, source: str) -> Objects:
    """Read the boxes and names of a row.

    Args:
        value: What its `objects` hold, or JSON of that.
        source: The row, for errors.

    Raises:
        SampleError: A box, a name or a key is invalid.
    """
    if isinstance(value, str):
        value = parse_if_json(value, "{")
    if not isinstance(value, Mapping):
        msg = f"{source}: found {show(value)} in the column 'objects', expected bbox, ref, bbox_type and image_id"
        raise SampleError(msg)
    unknown = [key for key in value if key not in KEYS and value[key] is not None]
    if unknown:
        shown = ", ".join(map(str, unknown))
        msg = f"{source}: 'objects' holds {shown}, which nothing reads; it may hold {', '.join(KEYS)}"
        raise SampleError(msg)
    kind = value.get("bbox_type") or REAL
    if kind not in (REAL, NORM):
        msg = f"{source}: 'objects' holds bbox_type = {show(kind)}, expected {REAL!r} or {NORM!r}"
        raise SampleError(msg)
    boxes = tuple(_read_box(box, kind, source) for box in _list(value, "bbox", source))
    names = tuple(_list(value, "ref", source))
    for name in names:
        if not isinstance(name, str):
            msg = f"{source}: 'objects' holds the name {show(name)} under 'ref', expected a text"
            raise SampleError(msg)
    return Objects(boxes, names, _read_places(value, len(boxes), source), is_relative=kind == NORM)


def texts_of(turns: Sequence[Turn]) -> Iterator[str]:
    """Return the texts that may contain marks, in the order of the conversation: a thought comes before its answer."""
    for turn in turns:
        yield turn.thought or ""
        yield from (part for part in turn.parts if isinstance(part, str))


def check_marks(turns: Sequence[Turn], objects: Objects, source: str) -> None:
    """Check that a conversation has as many marks as boxes and names.

    Raises:
        SampleError: The numbers differ.
    """
    texts = list(texts_of(turns))
    for mark, n_given, key in ((BOX_MARK, len(objects.boxes), "bbox"), (NAME_MARK, len(objects.names), "ref")):
        n_marks = sum(text.count(mark) for text in texts)
        if n_marks != n_given:
            msg = (
                f"{source}: the texts hold {mark} {n_marks} times and 'objects' holds {n_given} under "
                f"{key!r}; give one for each mark"
            )
            raise SampleError(msg)


def write_objects(
    turns: Sequence[Turn], objects: Objects, sizes: Sequence[tuple[Size, Size]], style: BoxStyle, source: str
) -> tuple[Turn, ...]:
    """Replace the marks of the texts by boxes and names.

    Args:
        turns: A conversation.
        objects: Its boxes and names.
        sizes: Sizes of each image: as stored (upright), and as the model gets it.
        style: How the family writes them.
        source: The row, for errors.

    Raises:
        SampleError: A box has no image, exceeds it, or cannot be written by the family.
    """
    check_marks(turns, objects, source)
    boxes = (
        _write_box(box, objects.is_relative, _size_of(place, sizes, source), style, source)
        for box, place in zip(objects.boxes, objects.images, strict=True)
    )
    names = map(style.write_name, objects.names)

    def fill(text: str) -> str:
        return _MARKS.sub(lambda found: next(boxes if found[0] == BOX_MARK else names), text)

    return tuple(_fill_turn(turn, fill) for turn in turns)


def _fill_turn(turn: Turn, fill: Callable[[str], str]) -> Turn:
    # A thought comes before the answer.
    thought = turn.thought and fill(turn.thought)
    parts = tuple(fill(part) if isinstance(part, str) else part for part in turn.parts)
    return attrs.evolve(turn, parts=parts, thought=thought)


def _list(value: Mapping[str, Any], key: str, source: str) -> Sequence[Any]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, (list, tuple)):
        msg = f"{source}: 'objects' holds {show(found)} under {key!r}, expected a list"
        raise SampleError(msg)
    return found


def _read_box(box: Any, kind: str, source: str) -> tuple[float, ...]:
    where = f"{source}: 'objects' holds the box {show(box)}"
    numbers = isinstance(box, (list, tuple)) and all(map(_is_number, box))
    if not numbers or len(box) not in _LENGTHS or not all(abs(number) < 2**53 for number in box):
        msg = f"{where}, expected [x1, y1, x2, y2] or [x, y] in numbers"
        raise SampleError(msg)
    if kind == NORM and not all(0 <= number <= 1 for number in box):
        msg = f"{where}, expected shares of the image's sides, from 0 to 1; bbox_type = {REAL!r} is for pixels"
        raise SampleError(msg)
    if len(box) == 4 and (box[0] > box[2] or box[1] > box[3]):  # noqa: PLR2004 - two corners
        msg = f"{where}, whose second corner lies before its first; expected [x1, y1, x2, y2], not width and height"
        raise SampleError(msg)
    return tuple(float(number) for number in box)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_places(value: Mapping[str, Any], n_boxes: int, source: str) -> tuple[int, ...]:
    """Return the number of each box's image; the first one where the row has none."""
    found = _list(value, "image_id", source)
    if len(found) > n_boxes or not all(isinstance(place, int) and _is_number(place) and place >= 0 for place in found):
        msg = (
            f"{source}: 'objects' holds image_id = {show(found)}, expected a number from 0 on for each box ({n_boxes})"
        )
        raise SampleError(msg)
    return (*found, *(0 for _ in range(n_boxes - len(found))))


def _size_of(place: int, sizes: Sequence[tuple[Size, Size]], source: str) -> tuple[Size, Size]:
    if place >= len(sizes):
        msg = f"{source}: 'objects' holds a box of image {place}, counted from 0, and the row has {len(sizes)} images"
        raise SampleError(msg)
    return sizes[place]


def _write_box(box: Sequence[float], is_relative: bool, sizes: tuple[Size, Size], style: BoxStyle, source: str) -> str:
    if len(box) == _LENGTHS[0] and not style.has_points:
        msg = f"{source}: 'objects' holds the point {list(box)}, and this model's family has no way to write points"
        raise SampleError(msg)
    stored, given = sizes
    written = []
    for index, number in enumerate(box):
        side = stored[index % 2]
        if not is_relative and not -SLACK <= number <= side + SLACK:
            msg = (
                f"{source}: 'objects' holds the box {list(box)}, which does not lie in its image of {stored[0]} x "
                f"{stored[1]} pixels; mend it, or set bbox_type = {NORM!r} if it holds shares"
            )
            raise SampleError(msg)
        share = number if is_relative else min(max(number / side, 0.0), 1.0)
        scale = given[index % 2] if style.scale is None else style.scale
        written.append(min(math.floor(share * scale), scale - 1) if style.in_bins else math.floor(share * scale + 0.5))
    return style.write_box(written)
