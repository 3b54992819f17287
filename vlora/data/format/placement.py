"""Assigns the images of a row to places: marks, contents that name them, or the first question. Pure."""

from collections.abc import Sequence
from typing import Any

import attrs

from ...errors import SampleError
from ...types import ImageSlot, Turn
from .content import Given, merge_texts
from .image_sizes import Asked, SizedImage
from .json_text import show
from .marks import IMAGE_TAG, Mark
from .messages import Draft
from .pictures import are_same


def place_images(
    drafts: Sequence[Draft], images: Sequence[Any], source: str
) -> tuple[tuple[Turn, ...], tuple[Any, ...]]:
    """Assign every image of a row to its place.

    A mark takes the next image, a mark with a number the one of that number. Images within a message, or named in its
    content, stand for the row's own if the row repeats them. Images that no mark takes stand at the start of their
    message, or of the first question; either all have a mark or none.

    Args:
        drafts: The turns.
        images: The row's own images.
        source: The row, for errors.

    Returns:
        The turns with their slots, and the images in the order in which the turns show them.

    Raises:
        SampleError: A mark without an image, images without a mark beside others with one, or no place at all.
    """
    drafts = [_settle_marks(draft, number, source) for number, draft in enumerate(drafts, 1)]
    if any(isinstance(part, Mark) and part.number for draft in drafts for part in draft.parts):
        return _place_by_number(drafts, images, source)
    waiting, placed, turns = list(images), list[Any](), list[Turn]()
    for draft in drafts:
        turn, waiting, shown = _place_in_turn(draft, waiting, placed, source)
        placed = [*placed, *shown]
        turns.append(turn)
    if not waiting:
        return tuple(turns), tuple(placed)
    if placed:
        raise SampleError(_describe_unplaced(len(placed), len(waiting), source))
    return _place_first(turns, waiting, source), tuple(waiting)


def _place_in_turn(
    draft: Draft, waiting: list[Any], placed: list[Any], source: str
) -> tuple[Turn, list[Any], list[Any]]:
    """Return a turn, the row's images that are left after it, and the images that it shows."""
    inside = list(draft.images)
    rest = _without_same(waiting, inside, source)
    queue, shown = [*inside, *rest], list[Any]()
    parts = list[str | ImageSlot]()
    for part in draft.parts:
        if isinstance(part, str):
            parts.append(part)
            continue
        if isinstance(part, Given):
            shown.append(_sized(part.image, part.asked))
            queue = _without_same(queue, [part.image], source)
        elif queue:
            shown.append(_sized(queue[0], part.asked))
            queue = queue[1:]
        else:
            raise SampleError(_describe_missing(part, len(placed) + len(shown), source))
        parts.append(ImageSlot(len(placed) + len(shown) - 1))
    n_unplaced = len(queue) - len(rest)
    if 0 < n_unplaced < len(inside):
        raise SampleError(_describe_unplaced(len(inside) - n_unplaced, n_unplaced, source))
    if n_unplaced > 0:
        # No mark took an image here: the message's images stand before its text.
        shown, queue = inside, queue[n_unplaced:]
        parts = [*(ImageSlot(len(placed) + index) for index in range(len(inside))), *parts]
    return _turn_of(draft, parts), queue, shown


def _sized(image: Any, asked: Asked | None) -> Any:
    return image if asked is None else SizedImage(image, asked)


def _turn_of(draft: Draft, parts: Sequence[str | ImageSlot]) -> Turn:
    return Turn(draft.role, tuple(parts), draft.thought, draft.calls, draft.learned, draft.name, draft.call_id)


def _without_same(waiting: list[Any], shown: Sequence[Any], source: str) -> list[Any]:
    """Drop images of the row that a message repeats."""
    for own, image in zip(waiting, shown, strict=False):
        if not are_same(own, image):
            msg = (
                f"{source}: the row's images name {show(own)} where its messages name {show(image)}; keep one of them, "
                "or set the column aside in data.columns"
            )
            raise SampleError(msg)
    return waiting[len(shown) :]


def _settle_marks(draft: Draft, number: int, source: str) -> Draft:
    """Refuse marks that a turn cannot show; in answers only `<image>` is a mark, others are words."""
    if draft.role == "assistant":
        parts = [part.text if isinstance(part, Mark) and _is_word(part) else part for part in draft.parts]
        for part in parts:
            if isinstance(part, Mark) and part.text.startswith("<"):
                msg = (
                    f"{source}: turn {number} is the assistant's and holds the mark {part.text}; images can be shown, "
                    f"not answered; write \\{part.text} for the word"
                )
                raise SampleError(msg)
        return attrs.evolve(draft, parts=tuple(merge_texts(parts)))
    for part in draft.parts:
        if isinstance(part, Mark) and part.is_foreign:
            msg = (
                f"{source}: turn {number} holds the mark {part.text}, for which the row brings nothing; write "
                f"{IMAGE_TAG} where an image stands, \\{part.text} for the word"
            )
            raise SampleError(msg)
    return draft


def _is_word(mark: Mark) -> bool:
    return mark.is_foreign or (mark.number is not None and mark.text.startswith("<"))


def _place_by_number(
    drafts: Sequence[Draft], images: Sequence[Any], source: str
) -> tuple[tuple[Turn, ...], tuple[Any, ...]]:
    own = list(images) or [image for draft in drafts for image in draft.images]
    shown, turns, named = list[Any](), list[Turn](), set[int]()
    for draft in drafts:
        parts = list[str | ImageSlot]()
        for part in draft.parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            if isinstance(part, Given) or part.number is None:
                msg = f"{source}: marks with a number stand beside images without one; number all of them or none"
                raise SampleError(msg)
            if not 1 <= part.number <= len(own):
                raise SampleError(_describe_missing(part, len(own), source))
            named.add(part.number)
            shown.append(_sized(own[part.number - 1], part.asked))
            parts.append(ImageSlot(len(shown) - 1))
        turns.append(_turn_of(draft, parts))
    if len(named) < len(own):
        raise SampleError(_describe_unplaced(len(named), len(own) - len(named), source))
    return tuple(turns), tuple(shown)


def _place_first(turns: Sequence[Turn], images: Sequence[Any], source: str) -> tuple[Turn, ...]:
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        msg = f"{source}: there are images but no user turn to show them in"
        raise SampleError(msg)
    slots = tuple(ImageSlot(index) for index in range(len(images)))
    asked = attrs.evolve(turns[first], parts=(*slots, *turns[first].parts))
    return (*turns[:first], asked, *turns[first + 1 :])


def _describe_missing(mark: Mark, n_images: int, source: str) -> str:
    word = f", and write \\{mark.text} for the word" if mark.text.startswith("<") else ""
    return (
        f"{source}: {mark.text} has no image; the row's image columns hold {n_images}, give one image per mark{word} "
        "(a column of another name is mapped in data.columns)"
    )


def _describe_unplaced(n_placed: int, n_waiting: int, source: str) -> str:
    return (
        f"{source}: {n_placed} of {n_placed + n_waiting} images have a place in the messages; give every image a "
        f"marker ({IMAGE_TAG} or an image part), or none"
    )
