"""Whose each part of a written conversation is, for people who look at it; nothing that is learned depends on it.

A conversation is written once more with a sentinel in place of each text of its turns. Where the sentinels come out,
the texts stand, and what is between them is the template's own. Both together have to be what was written before.
"""

from collections.abc import Callable, Sequence

import attrs

from ....data.masking import SENTINELS, Tokenize, make_sentinel, place_bounds
from ....types import ImageSlot, Sample, Turn

FIRST = 2 * 10**9
"""Where the sentinels of texts begin: smaller ones stand for answers elsewhere."""
TEMPLATE = "template"

RoleSpan = tuple[str, int, int]
"""A role, and the first character and the one behind the last of a text that is its."""


def find_role_spans(text: str, sample: Sample, write: Callable[[Sample], str]) -> list[RoleSpan] | None:
    """Find the texts of a conversation's turns where it is written.

    Args:
        text: The conversation as it is written.
        sample: The conversation.
        write: Writes a conversation.

    Returns:
        The spans, in order; None if it cannot be told which text is whose.
    """
    parts: list[tuple[str, str]] = []

    def hide(turn: Turn) -> Turn:
        hidden: list[str | ImageSlot] = []
        for part in turn.parts:
            if isinstance(part, str) and part.strip():
                hidden.append(make_sentinel(FIRST + len(parts)))
                parts.append((turn.role, part))
            else:
                hidden.append(part)
        return attrs.evolve(turn, parts=tuple(hidden))

    skeleton = write(attrs.evolve(sample, turns=tuple(map(hide, sample.turns))))
    numbers = [int(found[1]) - FIRST for found in SENTINELS.finditer(skeleton)]
    if numbers != list(range(len(parts))):
        return None
    # Of each sentinel its number is split off too.
    pieces = SENTINELS.split(skeleton)[::2]
    if not text.startswith(pieces[0]):
        return None
    spans, place = [], len(pieces[0])
    for (role, part), piece in zip(parts, pieces[1:], strict=True):
        spellings = (part, part.strip(), part.rstrip(), part.lstrip())
        written = next((found for found in spellings if text.startswith(found + piece, place)), None)
        if written is None:
            return None
        spans.append((role, place, place + len(written)))
        place += len(written) + len(piece)
    return spans if place == len(text) else None


def roles_of_tokens(text: str, spans: Sequence[RoleSpan], tokenize: Tokenize) -> list[str]:
    """Say of each token of a text whose it is; one that joins characters of two is the second's.

    Args:
        text: The text.
        spans: Roles of parts of it, in order, not overlapping.
        tokenize: The tokenizer.
    """
    bounds = sorted({0, len(text), *(bound for _, *ends in spans for bound in ends)})
    ids, places = place_bounds(text, bounds, tokenize)
    unplaced = [bound for bound in bounds if bound not in places]
    found = tokenize([text[:bound] for bound in unplaced]) if unplaced else []
    for bound, before in zip(unplaced, found, strict=True):
        places[bound] = len(before) if ids[: len(before)] == before else max(0, len(before) - 1)
    roles = [TEMPLATE] * len(ids)
    for role, start, end in spans:
        first, last = places[start], places[end]
        roles[first:last] = [role] * max(0, last - first)
    return roles[: len(ids)]
