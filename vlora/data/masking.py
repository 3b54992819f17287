"""Which tokens are learned. Pure: text and token ids in, masks out; everything is verified on the ids themselves."""

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import SampleError
from ..types import BoolArray, IntArray

Span = tuple[int, int]
"""Start and end of a part of a text, in characters; the end is exclusive."""

SEARCH_LENGTH = 1024
"""Tokens after an image that are searched first for the text that follows it."""

Tokenize = Callable[[list[str]], list[list[int]]]
"""Texts to ids, without adding special tokens."""


SENTINELS = re.compile("\ue000([0-9]+)\ue001")


def make_sentinel(index: int) -> str:
    """Make the text that stands for answer `index` while the template's own text is found."""
    # No letters: a template that changes letters changes the answer, and is to be reported as doing that.
    return f"\ue000{index}\ue001"


def leading_end_of_turn(text: str, end_of_turn: Sequence[str]) -> str:
    """Return the token that ends an answer, with the spaces before it; empty if the following text begins with none."""
    bare = text.lstrip(" ")
    token = next((token for token in end_of_turn if token and bare.startswith(token)), None)
    return "" if token is None else text[: len(text) - len(bare)] + token


def mask_completions(
    text: str, spans: Sequence[Span], tokenize: Tokenize, source: str = "row"
) -> tuple[IntArray, BoolArray]:
    """Tokenize a text and mark the tokens of its spans.

    Every boundary is verified: the text before it must tokenize to the same ids on its own, as it does when the
    model generates from there. A space before a span belongs to the span where the tokenizer joins the two into one
    token ("ASSISTANT: yes" has the token "▁yes").

    Args:
        text: What is tokenized.
        spans: Character spans in it, in order, not overlapping.
        tokenize: The tokenizer.
        source: The row, for errors.

    Returns:
        (i32[T] ids, bool[T] supervised). T is the length of the whole text in tokens.

    Raises:
        SampleError: A token joins characters on both sides of a boundary.
    """
    starts = _settle_starts(text, spans, tokenize)
    bounds = sorted({0, len(text), *starts, *(stop for _, stop in spans)})
    ids, places = place_bounds(text, bounds, tokenize)
    supervised = np.zeros(len(ids), dtype=np.bool_)
    for start, span in zip(starts, spans, strict=True):
        first, last = places.get(start), places.get(span[1])
        if first is None or last is None:
            side = "start" if first is None else "end"
            msg = (
                f"{source}: the {side} of {shorten(text[slice(*span)])!r} falls inside a token, joined with "
                "the chat template's text; remove white space at the ends of the answer"
            )
            raise SampleError(msg)
        supervised[first:last] = True
    return np.asarray(ids, dtype=np.int32), supervised


def expand_placeholders(
    plain: IntArray, expanded: IntArray, image_id: int, source: str = "row"
) -> tuple[IntArray, BoolArray]:
    """Align a text's ids with the processor's, in which each image is many tokens.

    Args:
        plain: i32[P], the ids of the text, `image_id` once per image.
        expanded: i32[T], the ids that the processor made of the same text.
        image_id: The token that the processor replaces.
        source: The row, for errors.

    Returns:
        (i32[P] position of each plain token in `expanded`, where an image's is its first token;
        bool[T] placeholders, True on every token that stands for an image).

    Raises:
        SampleError: The processor changed more than the images.
    """
    images = np.flatnonzero(plain == image_id)
    bounds = [0, *(int(index) + 1 for index in images)]
    ends = [*(int(index) for index in images), len(plain)]
    segments = [plain[start:end] for start, end in zip(bounds, ends, strict=True)]
    starts = _match_segments(segments, expanded)
    if starts is None:
        msg = (
            f"{source}: the processor's ids are not the chat template's with {len(images)} images expanded "
            f"({len(plain)} and {len(expanded)} tokens); does the text hold the image token itself?"
        )
        raise SampleError(msg)
    positions = np.empty(len(plain), dtype=np.int32)
    placeholders = np.ones(len(expanded), dtype=np.bool_)
    for segment, start, bound in zip(segments, starts, bounds, strict=True):
        stop = start + len(segment)
        positions[bound : bound + len(segment)] = np.arange(start, stop)
        placeholders[start:stop] = False
        if bound + len(segment) < len(plain):
            positions[bound + len(segment)] = stop
    return positions, placeholders


def _settle_starts(text: str, spans: Sequence[Span], tokenize: Tokenize) -> list[int]:
    """Find where each span begins: at its first character, or at the spaces before it."""
    bares, end = [], 0
    for start, stop in spans:
        bare = start
        while bare > end and text[bare - 1] == " ":
            bare -= 1
        bares.append(bare)
        end = stop
    ends = [0, *(stop for _, stop in spans)]
    spaced = [number for number, (start, _) in enumerate(spans) if bares[number] < start]
    windows = [text[ends[n] : stop] for n in spaced for stop in (spans[n][1], spans[n][0], bares[n])]
    found = tokenize(windows) if windows else []
    tried = zip(spaced, found[::3], found[1::3], found[2::3], strict=True)
    starts = [start for start, _ in spans]
    for number, whole, exact, spaces in tried:
        if whole[: len(exact)] != exact and whole[: len(spaces)] == spaces:
            starts[number] = bares[number]
    return starts


def place_bounds(text: str, bounds: Sequence[int], tokenize: Tokenize) -> tuple[list[int], dict[int, int]]:
    """Tokenize a text, and find the token index of each bound; a bound inside a token has none.

    The text before a bound has to tokenize to the same ids on its own and together with the text after it. Each test
    covers the text from one bound to the next but one, so that the work is linear in the length of the text. The ids of
    all pieces together have to be the text's ids. Where they are not (a tokenizer with a longer context), every bound
    is tested from the beginning of the text.
    """
    befores = [text[start:stop] for start, stop in itertools.pairwise(bounds)]
    windows = [text[start:stop] for start, stop in zip(bounds, bounds[2:], strict=False)]
    ids, *found = tokenize([text, *befores, *windows])
    pieces, places, place = found[:1], {0: 0}, 0
    for bound, before, window in zip(bounds[1:], found, found[len(befores) :], strict=False):
        if window[: len(before)] != before:
            if not _place_from_the_beginning(text, ids, [bound], tokenize):
                break
            return ids, _place_from_the_beginning(text, ids, bounds, tokenize)
        place += len(pieces[-1])
        places[bound] = place
        pieces.append(window[len(before) :])
    else:
        if list(itertools.chain.from_iterable(pieces)) != ids:
            return ids, _place_from_the_beginning(text, ids, bounds, tokenize)
    return ids, {**places, bounds[-1]: len(ids)}


def _place_from_the_beginning(text: str, ids: list[int], bounds: Sequence[int], tokenize: Tokenize) -> dict[int, int]:
    prefixes = tokenize([text[:bound] for bound in bounds])
    return {bound: len(prefix) for bound, prefix in zip(bounds, prefixes, strict=True) if ids[: len(prefix)] == prefix}


def _match_segments(segments: Sequence[IntArray], expanded: IntArray) -> list[int] | None:
    """Find where each segment starts, with at least one token between them."""
    first, *rest = segments
    if not np.array_equal(expanded[: len(first)], first):
        return None
    if not rest:
        return [0] if len(first) == len(expanded) else None
    # The last segment is at the end, and the others are in order before it: the search is short.
    last = len(expanded) - len(rest[-1])
    if last <= len(first) or not np.array_equal(expanded[last:], rest[-1]):
        return None
    opening, closing = expanded[len(first)], expanded[last - 1]
    position, starts = len(first), [0]
    for segment in rest[:-1]:
        found = _find(expanded[:last], segment, position + 1, closing, opening)
        if found is None:
            return None
        starts.append(found)
        position = found + len(segment)
    return [*starts, last]


def _find(tokens: IntArray, segment: IntArray, start: int, closing: int, opening: int) -> int | None:
    """Find a segment that another image follows, at `start` or later.

    Processors write text within images too (a line break after a row of tiles). All images begin with one token and end
    with one token, so the first match between such an end and such a beginning is preferred to the first match.
    """
    width, size, first = len(segment), SEARCH_LENGTH, None
    while start + width < len(tokens):
        stop = min(start + size, len(tokens) - width)
        windows = np.lib.stride_tricks.sliding_window_view(tokens[start : stop - 1 + width], width)
        places = start + np.flatnonzero((windows == segment).all(axis=1))
        between = places[(tokens[places - 1] == closing) & (tokens[places + width] == opening)]
        if len(between):
            return int(between[0])
        first = int(places[0]) if first is None and len(places) else first
        start, size = stop, 2 * size
    return first


def shorten(text: str, width: int = 60) -> str:
    """Truncate a text to at most `width` characters, for a message."""
    return text if len(text) <= width else text[: width - 3] + "..."
