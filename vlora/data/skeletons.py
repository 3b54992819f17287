"""Positions of the answers in a rendered conversation. Pure: turns and texts in, positions out.

A chat template is a program, so nothing here guesses from its source. A conversation is rendered twice: as it is, and
as a skeleton that has a sentinel in place of each text of its answers. The positions of the sentinels in the rendered
skeleton are the positions of the answers. The text between them is the template's. The model has to write the part of
it that a prompt does not show.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..errors import SampleError
from ..types import ImageSlot, Turn
from .masking import SENTINELS, make_sentinel, shorten

Marks = re.Pattern[str]
"""Matches the words at which a template may divide an answer; one group holds the word."""


@attrs.frozen(kw_only=True)
class Run:
    """A text of an answer that a sentinel replaces.

    Attributes:
        text: The text.
        answer: The index of its assistant turn, from 0.
        is_needed: The template has to write it. It may drop other runs (thoughts of earlier turns).
        closes: The turn's text ends with it.
        rest: The text after it in the same turn that no sentinel replaces.
    """

    text: str
    answer: int
    is_needed: bool = True
    closes: bool = False
    rest: str = ""


@attrs.frozen(kw_only=True)
class Place:
    """The position of a run in the rendered conversation.

    Attributes:
        number: The run's number, as in its sentinel.
        run: The run.
        start: The index of its first character.
        end: The index after its last character.
        before: The skeleton's text between the previous sentinel and its own.
        follows: The skeleton's text between its own sentinel and the next.
    """

    number: int
    run: Run
    start: int
    end: int
    before: str
    follows: str


def find_marks(template: str) -> Marks:
    """Find the words in a template's source that look like tags; those at which it divides answers are among them."""
    found = set(re.findall(r"<[^<>{}\s'\"]+>|\[/?[A-Z_]+\]|◁/?\w+▷", template))
    words = sorted(found, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, words)) + ")" if words else "(?!)()")


def hide_answers(turns: Sequence[Turn], marks: Marks) -> tuple[tuple[Turn, ...], list[Run]]:
    """Replace all texts of the answers by sentinels: thoughts, spoken texts, and the names of called tools.

    Marks keep their positions, so that a template that divides answers at marks divides the sentinels in the same way.
    """
    runs: list[Run] = []
    hidden = list(turns)
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    for answer, number in enumerate(answers):
        is_last = number == len(turns) - 1
        hidden[number], found = _hide_answer(turns[number], marks, answer, len(runs), is_last=is_last)
        runs += found
    return tuple(hidden), runs


def hide_questions(turns: Sequence[Turn], marks: Marks, first: int) -> tuple[Turn, ...]:
    """Replace the texts of all turns that are no answers by sentinels; each such turn gets at least one.

    Args:
        turns: The turns.
        marks: As in `hide_answers`.
        first: The number of the first sentinel.
    """
    hidden = []
    for turn in turns:
        if turn.role == "assistant":
            hidden.append(turn)
            continue
        parts: list[str | ImageSlot] = []
        n_before = first
        for part in turn.parts:
            if isinstance(part, ImageSlot):
                parts.append(part)
                continue
            text, found = _hide_text(part, marks, first)
            parts.append(text)
            first += len(found)
        if first == n_before:
            parts.append(make_sentinel(first))
            first += 1
        hidden.append(attrs.evolve(turn, parts=tuple(parts)))
    return tuple(hidden)


def _hide_answer(turn: Turn, marks: Marks, answer: int, first: int, *, is_last: bool) -> tuple[Turn, list[Run]]:
    runs: list[Run] = []

    def hide(text: str, **what: Any) -> str:
        runs.append(Run(text=text, answer=answer, **what))
        return make_sentinel(first + len(runs) - 1)

    thought = turn.thought
    if thought is not None and thought.strip():
        thought = hide(thought, is_needed=is_last)
    parts = [part for part in turn.parts if isinstance(part, str)]
    # After a thought or before a call, white space has no meaning; alone it is an answer.
    texts = [at for at, part in enumerate(parts) if part.strip() or not (runs or turn.calls)]
    if not (texts or runs or turn.calls):
        parts, texts = [""], [0]
    for at in texts:
        parts[at], found = _hide_text(parts[at], marks, first + len(runs))
        for number, (piece, rest) in enumerate(found, 1):
            is_end = number == len(found)
            closes = is_end and not rest.strip() and at == texts[-1]
            runs.append(Run(text=piece, answer=answer, is_needed=is_end or is_last, closes=closes, rest=rest))
    calls = []
    for call in turn.calls:
        # What is no JSON is refused where it is written.
        rest = json.dumps(call.get("arguments"), ensure_ascii=False, default=str)
        calls.append({**call, "name": hide(str(call["name"]), rest=rest)})
    return attrs.evolve(turn, thought=thought, parts=tuple(parts), calls=tuple(calls)), runs


def _hide_text(text: str, marks: Marks, first: int) -> tuple[str, list[tuple[str, str]]]:
    """Hide the texts between marks; return the text with sentinels, and each piece with the text after it."""
    pieces = marks.split(text)
    if len(pieces) == 1 or not any(piece.strip() for piece in pieces[::2]):
        return make_sentinel(first), [(text, "")]
    found = []
    for at in range(0, len(pieces), 2):
        if pieces[at].strip():
            found.append((pieces[at], "".join(pieces[at + 1 :])))
            pieces[at] = make_sentinel(first + len(found) - 1)
    return "".join(pieces), found


def locate_runs(text: str, skeleton: str, runs: Sequence[Run], source: str) -> list[Place]:
    """Find every text of the answers in a rendered conversation.

    Args:
        text: The conversation as the template renders it.
        skeleton: The same with sentinels in place of the runs.
        runs: What the sentinels stand for.
        source: The row, for errors.

    Returns:
        The positions of the runs that the template writes, in the order of the text.

    Raises:
        SampleError: The template drops an answer, or changes one by more than stripping white space.
    """
    parts = SENTINELS.split(skeleton)
    pieces, numbers = parts[::2], [int(number) for number in parts[1::2]]
    _check_numbers(numbers, runs, source)
    places: list[Place] = []
    position = len(pieces[0])
    for number, before, follows in zip(numbers, pieces, pieces[1:], strict=False):
        run = runs[number]
        end = _match(run.text, text, position, follows) if places or text.startswith(pieces[0]) else None
        if end is None:
            msg = (
                f"{source}: the chat template changes assistant turn {run.answer + 1} ({shorten(run.text)!r}); "
                "its tokens cannot be told from the template's, so the row cannot be masked"
            )
            raise SampleError(msg)
        places.append(Place(number=number, run=run, start=position, end=end, before=before, follows=follows))
        position = end + len(follows)
    if position != len(text):
        msg = f"{source}: the chat template adds text after the last turn that depends on the answers"
        raise SampleError(msg)
    return places


def _check_numbers(numbers: Sequence[int], runs: Sequence[Run], source: str) -> None:
    shown = set(numbers)
    answers = [runs[number].answer for number in numbers if number < len(runs)]
    written = set(answers)
    for number, run in enumerate(runs):
        if number not in shown and (run.is_needed or run.answer not in written):
            msg = (
                f"{source}: the chat template does not write assistant turn {run.answer + 1} as the row has it: "
                f"{shorten(run.text)!r} is missing; split or mend the row"
            )
            raise SampleError(msg)
    if len(shown) != len(numbers) or max(shown, default=0) >= max(1, len(runs)) or answers != sorted(answers):
        msg = (
            f"{source}: the chat template writes an answer twice or answers in another order; its tokens cannot be "
            "told from the template's, so the row cannot be masked"
        )
        raise SampleError(msg)


def _match(run: str, text: str, position: int, follows: str) -> int | None:
    """Find the end of a run that begins at a position, as it is or with white space stripped at its ends."""
    core = run.strip()
    lead = run[: len(run) - len(run.lstrip())]
    trail = run[len(lead) + len(core) :]
    for first in range(len(lead) + 1):
        if not text.startswith(lead[first:], position):
            continue
        end = position + len(lead) - first
        if not text.startswith(core, end):
            continue
        end += len(core)
        # The longest form that matches is the one that the template wrote.
        for last in range(len(trail), -1, -1):
            if text.startswith(trail[:last], end) and text.startswith(follows, end + last):
                return end + last
    return None


def measure_opening(region: str, tail: str, header: str | None) -> tuple[int, bool] | None:
    """Measure how much of the template's text before an answer the model has to write.

    Args:
        region: The template's text between the previous turn's text and the answer's first text.
        tail: The template's text after a question in a prompt that asks for an answer.
        header: The template's text between a question and an earlier answer that is a text alone.

    Returns:
        (characters at the region's end, whether a prompt ends before them). An answer that begins in another way than
        the prompt asks for it (an earlier one without its thought) follows the header. None if the region has neither.
    """
    for opening in (tail, header):
        at = -1 if opening is None else region.rfind(opening)
        if opening is not None and at >= 0:
            return len(region) - at - len(opening), opening == tail
    return None


def divides(text: str, marks: Marks) -> bool:
    """Whether marks divide a text into several pieces."""
    return sum(bool(piece.strip()) for piece in marks.split(text)[::2]) > 1


def measure_closing(place: Place, region: str, end: str) -> int | None:
    """Measure how much of the template's text after an answer's last text the model has to write.

    Args:
        place: The last text's position: a tool's name, a thought, or a text that a mark follows.
        region: The template's text between it and the text of the next turn.
        end: The token that ends a spoken text; the text before it (the rest of a call, say) belongs to the turn.

    Returns:
        The number of characters; None if that token does not end the turn.
    """
    at = -1
    for _ in range(place.run.rest.count(end) + 1 if end else 0):
        at = region.find(end, at + 1)
        if at < 0:
            return None
    return at + len(end) if at >= 0 and place.follows.startswith(region) else None


def split_regions(skeleton: str) -> Mapping[int, tuple[str, str]]:
    """Map each sentinel of a skeleton in which all texts are hidden to the texts before and after it."""
    parts = SENTINELS.split(skeleton)
    pieces, numbers = parts[::2], [int(number) for number in parts[1::2]]
    return dict(zip(numbers, itertools.pairwise(pieces), strict=True))
