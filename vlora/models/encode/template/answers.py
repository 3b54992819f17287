"""The learned parts of a conversation: of each answer, the text that the model has to write after its prompt."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import attrs

from ....data.masking import Span, Tokenize, leading_end_of_turn, make_sentinel
from ....data.skeletons import (
    Marks,
    Place,
    divides,
    hide_answers,
    hide_questions,
    locate_runs,
    measure_closing,
    measure_opening,
    split_regions,
)
from ....errors import SampleError
from ....types import Sample, Turn
from .expressing import NOT_THINKING, THINKING

Options = Mapping[str, Any]
NO_OPTIONS: Options = MappingProxyType({})
Regions = Mapping[int, tuple[str, str]]


class Write(Protocol):
    """Renders a conversation."""

    def __call__(self, sample: Sample, options: Options) -> str:
        """Render it with further variables for the template."""


@attrs.frozen(kw_only=True)
class Located:
    """A rendered conversation and its answers.

    Attributes:
        text: The conversation.
        spans: Of each answer the text that the model has to write, in order.
        is_asked: A prompt of the template ends where the last answer begins.
    """

    text: str
    spans: list[Span]
    is_asked: bool


@attrs.define(eq=False, kw_only=True)
class AnswerFinder:
    """Finds the answers of one model's conversations.

    What a template writes around an answer, and how it asks for one, is found by rendering examples: once per model
    where it does not depend on the row.

    Attributes:
        write: Renders a conversation.
        ask: Renders a prompt that asks for the next answer.
        marks: The words at which the template may divide an answer.
        lead: White space that the template writes before an answer and not in a prompt.
        end_of_turn: The tokenizer's special tokens, as text.
        stops: The tokens at which generation ends, as text.
        tokenize: The tokenizer.
    """

    write: Write
    ask: Write
    marks: Marks
    lead: str
    end_of_turn: Sequence[str]
    stops: Sequence[str]
    tokenize: Tokenize
    _tails: dict[tuple[str, bool | None], tuple[str | None, str | None]] = attrs.field(factory=dict, init=False)
    _ends: dict[bool | None, str] = attrs.field(factory=dict, init=False)
    _joined: dict[tuple[str, str], bool] = attrs.field(factory=dict, init=False)

    def is_plain(self, sample: Sample) -> bool:
        """Whether the answers are texts that no template divides."""
        return not any(self._is_special(turn) for turn in sample.turns if turn.role == "assistant")

    def _is_special(self, turn: Turn) -> bool:
        return turn.thought is not None or bool(turn.calls) or self.marks.search(turn.text) is not None

    def __call__(self, sample: Sample) -> Located:
        """Render a conversation and find its answers.

        Published templates have an option that says whether a prompt asks for a thought. The option is chosen with
        which the prompt ends where the last answer begins.

        Raises:
            SampleError: The template drops or changes an answer, or it cannot be told from the template's own text.
        """
        answers = [turn for turn in sample.turns if turn.role == "assistant"]
        is_thinking = any((turn.thought or "").strip() or divides(turn.text, self.marks) for turn in answers)
        found: Located | None = None
        problem: SampleError | None = None
        told = (THINKING, NOT_THINKING) if is_thinking else (NOT_THINKING, THINKING)
        for options in (NO_OPTIONS, *told):
            if options and problem is None and not self._asks_otherwise(sample, options):
                break
            try:
                located = self._locate(sample, options)
            except SampleError as error:
                problem = problem or error
                continue
            if located.is_asked:
                return located
            found = found or located
        if found is None:
            raise problem or SampleError(sample.source)
        return found

    def _locate(self, sample: Sample, options: Options) -> Located:
        hidden, runs = hide_answers(sample.turns, self.marks)
        skeleton = attrs.evolve(sample, turns=hidden)
        text = self.write(sample, options)
        places = locate_runs(text, self.write(skeleton, options), runs, sample.source)
        regions = functools.cache(lambda: self._regions(skeleton, len(runs), options))
        spans: list[Span] = []
        is_asked = True
        answers = [number for number, turn in enumerate(sample.turns) if turn.role == "assistant"]
        for number, (_, group) in zip(answers, itertools.groupby(places, lambda place: place.run.answer), strict=True):
            first, *rest = group
            n_before, is_asked = self._measure_opening(sample, number, first, regions, options)
            n_behind = self._measure_closing(sample, number, (first, *rest)[-1], regions, options)
            spans.append((first.start - n_before, (first, *rest)[-1].end + n_behind))
        return Located(text=text, spans=spans, is_asked=is_asked or sample.turns[-1].role != "assistant")

    def _regions(self, skeleton: Sample, n_runs: int, options: Options) -> Regions:
        """Render the conversation with all its texts hidden: what remains is the template's text."""
        hidden = attrs.evolve(skeleton, turns=hide_questions(skeleton.turns, self.marks, n_runs))
        try:
            return split_regions(self.write(hidden, options))
        except SampleError:
            return {}

    def _measure_opening(
        self, sample: Sample, number: int, first: Place, regions: Callable[[], Regions], options: Options
    ) -> tuple[int, bool]:
        """Count the characters before an answer's first text that the model writes; say whether a prompt ends there."""
        tail, header = self._find_tail(sample.turns[number - 1].role if number else "", options)
        if tail is not None:
            for lead in (self.lead, ""):
                if first.before.endswith(tail + lead):
                    return len(lead), True
            region, _ = regions().get(first.number, ("", ""))
            measured = measure_opening(region, tail, header) if first.before.endswith(region) else None
            if measured is not None:
                n_before, is_asked = measured
                if is_asked and self._joins(tail, region[len(region) - n_before :]):
                    # The model has to write the whole token that the prompt would begin.
                    return n_before + len(tail) - len(tail.rstrip()), False
                return measured
        if self._is_special(sample.turns[number]):
            msg = (
                f"{sample.source}: the chat template writes turn {number + 1} otherwise than it asks for it, so that "
                "what the model has to write cannot be told from the template's text"
            )
            raise SampleError(msg)
        return len(self.lead) * first.before.endswith(self.lead), False

    def _measure_closing(
        self, sample: Sample, number: int, last: Place, regions: Callable[[], Regions], options: Options
    ) -> int:
        if last.run.closes:
            return len(leading_end_of_turn(last.follows, self.end_of_turn))
        _, region = regions().get(last.number, ("", ""))
        ends = {self._find_end(options), *self.stops}
        found = [measure_closing(last, region, end) for end in ends]
        n_behind = min((length for length in found if length is not None), default=None)
        if n_behind is None:
            msg = f"{sample.source}: the chat template ends turn {number + 1} otherwise than it ends what is said"
            raise SampleError(msg)
        return n_behind

    def _asks_otherwise(self, sample: Sample, options: Options) -> bool:
        """Whether the options change the prompt that asks for the last answer."""
        role = sample.turns[-2].role if len(sample.turns) > 1 else ""
        return self._find_tail(role, options) != self._find_tail(role, NO_OPTIONS)

    def _find_tail(self, role: str, options: Options) -> tuple[str | None, str | None]:
        """Find the text after a turn: in a prompt that asks for an answer to it, and before an earlier answer."""
        key = role, options.get("enable_thinking")
        if key not in self._tails:
            word, answer, calls = make_sentinel(0), make_sentinel(1), ({"name": "look", "arguments": {"at": 1}},)
            question, last = Turn("user", ("a",)), Turn("assistant", ("a",))
            before = {"assistant": [question], "tool": [question, Turn("assistant", (), calls=calls)]}
            asked = (*before.get(role, []), Turn(role, (word,)))
            prompt = self._try(self.ask, asked, options) if role else ""
            text = self._try(self.write, (*asked, Turn("assistant", (answer,)), question, last), options)
            header = text.rpartition(word)[2].partition(answer) if word in text and role else ("", "", "")
            tail = prompt.rpartition(word)[2] if word in prompt else None
            self._tails[key] = tail, header[0] if header[1] else None
        return self._tails[key]

    def _try(self, write: Write, turns: tuple[Turn, ...], options: Options) -> str:
        try:
            return write(Sample("a conversation to try", turns, ()), options)
        except SampleError:
            return ""

    def _find_end(self, options: Options) -> str:
        """Find the token that the template writes after a spoken text."""
        key = options.get("enable_thinking")
        if key not in self._ends:
            turns = (Turn("user", ("a",)), Turn("assistant", (make_sentinel(0),)))
            text = self.write(Sample("a short conversation", turns, ()), options)
            self._ends[key] = leading_end_of_turn(text.rpartition(make_sentinel(0))[2], self.end_of_turn).lstrip(" ")
        return self._ends[key]

    def _joins(self, tail: str, behind: str) -> bool:
        """Whether the tokenizer makes one token of white space at a prompt's end and what the template adds to it."""
        if not (tail[-1:].isspace() and behind[:1].isspace()):
            return False
        if (tail, behind) not in self._joined:
            prompt, whole = self.tokenize([tail, tail + behind])
            self._joined[tail, behind] = whole[: len(prompt)] != prompt
        return self._joined[tail, behind]
