"""Conversations as text: rendered with the model's chat template, every answer ended, no part of a row left out."""

import functools
from collections.abc import Callable
from typing import Any

import attrs

from ....data.masking import SENTINELS, make_sentinel
from ....data.skeletons import find_marks
from ....errors import SampleError
from ....types import ImageSlot, Sample, Turn
from ...foreign import foreign
from .answers import NO_OPTIONS, AnswerFinder, Options
from .chat_template import ContentStyle, find_content_style, name_tools, render, write_messages
from .expressing import find_fields
from .finding import write_image
from .spelling import StandIns, settle
from .stops import Ending, find_ending, write_stops

TELLING = 16
"""A system prompt of so many characters does not occur in a text by chance."""


@attrs.define(eq=False, kw_only=True)
class Conversations:
    """Writes one model's conversations.

    Attributes:
        template: The chat template.
        tokenizer: The model's tokenizer.
        tokenize: Texts to ids, images as one token each.
        image_token: The text of an image in the processor's input.
        stop_ids: The tokens at which generation ends.
        learns_end: Whether an end is added to answers that the template does not end.
    """

    template: str
    tokenizer: Any
    tokenize: Callable[[list[str]], list[list[int]]]
    image_token: str
    stop_ids: tuple[int, ...]
    learns_end: bool

    @functools.cached_property
    def style(self) -> ContentStyle:
        """The form in which the template takes messages, and what it can express."""
        template, names = self.template, self._names
        return find_fields(template, names, find_content_style(template, names, self.image_token))

    def write(self, sample: Sample, options: Options = NO_OPTIONS) -> str:
        """Render a conversation with its answers and with everything that a prompt shows.

        Pixtral's published template writes the system prompt only if a question comes last, and so not into training
        text. The last answer is then appended to the prompt that asks for it.
        """
        text = self._write_ended(sample, options)
        if _has_system(text, sample, self.template) or self._shows_system(sample, options):
            return text
        question, last = attrs.evolve(sample, turns=sample.turns[:-1]), sample.turns[-1]
        answer = last.text.strip()
        if last.role != "assistant" or answer not in text or not self._shows_system(question, options, prompt=True):
            msg = (
                f"{sample.source}: the chat template drops the system prompt; take it out, or write it into the "
                "question"
            )
            raise SampleError(msg)
        return self._write_ended(question, options, prompt=True) + self.style.lead + text[text.rindex(answer) :]

    def ask(self, sample: Sample, options: Options = NO_OPTIONS) -> str:
        """Render a prompt that asks for the next answer."""
        return self._write_ended(sample, options, prompt=True)

    def _shows_system(self, sample: Sample, options: Options, *, prompt: bool = False) -> bool:
        """Whether the template writes all system prompts of a conversation."""
        n_system = sum(turn.role == "system" for turn in sample.turns)
        if not n_system:
            return True
        # The conversation may be a skeleton, with sentinels of its own.
        sentinel = make_sentinel(10**9)
        marked = [attrs.evolve(turn, parts=(sentinel,)) if turn.role == "system" else turn for turn in sample.turns]
        text = self._write_ended(attrs.evolve(sample, turns=tuple(marked)), options, prompt=prompt)
        return text.count(sentinel) == n_system

    @functools.cached_property
    def ending(self) -> Ending:
        """The end of answers, and what has to be added for it."""
        if not self.learns_end:
            return Ending()
        after_last, after_earlier = self._write_after_answers()
        return find_ending(after_last, after_earlier, self._stops, self.end_of_turn)

    @functools.cached_property
    def _stops(self) -> list[str]:
        return write_stops(self.stop_ids, self.tokenizer)

    @functools.cached_property
    def _end_of_calls(self) -> str:
        """Find the token to add after the last turn's calls so that the turn ends where generation does.

        If the template writes a token that ends generation before a tool's answer, it is that token: GLM's calls end
        with the token of the role "observation".
        """
        stops = self._stops if self.learns_end else []
        name, answer = make_sentinel(0), make_sentinel(1)
        turns = (Turn("user", ("a",)), Turn("assistant", (), calls=({"name": name, "arguments": {}},)))
        alone = self._write(Sample("a call", turns, ())).rpartition(name)[2]
        if not stops or any(stop in alone for stop in stops):
            return ""
        try:
            text = self._write(Sample("an answered call", (*turns, Turn("tool", (answer,))), ()))
        except SampleError:
            text = ""
        between = text.rpartition(name)[2].partition(answer)[0]
        found = [(between.find(stop), stop) for stop in stops if stop in between]
        return min(found)[1] if found else self.ending.text.lstrip()

    def prepare(self, sample: Sample) -> Sample:
        """Name tools, and strip the ends that a row has written after its answers if they are going to be added."""
        ending = self.ending
        turns = tuple(_strip_end(turn, ending.each or ending.last) for turn in name_tools(sample.turns))
        return attrs.evolve(sample, turns=turns)

    def _write_after_answers(self) -> tuple[str, str]:
        """Return the template's text after the last answer, and after an answer that a question follows."""
        question, answer, other, last = (make_sentinel(number) for number in range(4))
        turns = (Turn("user", (ImageSlot(0), question)), Turn("assistant", (answer,)))
        more = (*turns, Turn("user", (other,)), Turn("assistant", (last,)))
        after_last = self._write(Sample("a short conversation", turns, ())).rpartition(answer)[2]
        try:
            text = self._write(Sample("a long conversation", more, ()))
        except SampleError:
            # A template of one question and its answer.
            return after_last, ""
        return after_last, text.partition(answer)[2].partition(other)[0]

    def _write_ended(self, sample: Sample, options: Options = NO_OPTIONS, *, prompt: bool = False) -> str:
        """Render a conversation, every answer ended."""
        turns, ending = sample.turns, self.ending
        ends = [ending.each + ending.last * (number == len(turns) - 1) for number in range(len(turns))]
        ended = tuple(_end_turn(turn, end) for turn, end in zip(turns, ends, strict=True))
        text = self._write(attrs.evolve(sample, turns=ended), options, prompt=prompt)
        if prompt or not turns or turns[-1].role != "assistant":
            return text
        if turns[-1].calls:
            return text.rstrip() + self._end_of_calls if self._end_of_calls else text
        # White space after an end that the template does not know has no meaning.
        return text.rstrip() + ending.closing if ends[-1] or ending.closing else text

    def _write(self, sample: Sample, options: Options = NO_OPTIONS, *, prompt: bool = False) -> str:
        numbers = StandIns()
        try:
            messages = write_messages(sample.turns, self.style)
            for message in messages:
                if "tool_calls" in message:
                    message["tool_calls"] = settle(message["tool_calls"], "tool_calls")
            described = settle(sample.tools, "tools")
        except SampleError as error:
            msg = f"{sample.source}: {error}"
            raise SampleError(msg) from None
        marked = [
            {**message, "tool_calls": numbers.put(message["tool_calls"])} if "tool_calls" in message else message
            for message in messages
        ]
        tools = numbers.put(described)
        names = {**self._names, **options}
        refused = f"{sample.source}: the chat template refuses the conversation"
        with foreign(lambda error: SampleError(f"{refused}: {error}")):
            text = render(self.template, marked, names, tools=tools, prompt=prompt)
            if not numbers.numbers:
                return text
            is_same = numbers.respell(text) == render(self.template, messages, names, tools=described, prompt=prompt)
        if not is_same:
            number = numbers.numbers[0]
            msg = (
                f"{sample.source}: the chat template changes numbers of the row's tools or tool_calls, of which "
                f"{number.spelling} is one; write them as Python does ({number!r}), or as strings"
            )
            raise SampleError(msg)
        return numbers.spell(text)

    @functools.cached_property
    def _names(self) -> dict[str, Any]:
        names = {key: str(value) for key, value in self.tokenizer.special_tokens_map.items() if isinstance(value, str)}
        image = write_image(self.image_token, self.tokenizer)
        return {**names, "image_token": self.image_token, "image": image}

    @functools.cached_property
    def end_of_turn(self) -> list[str]:
        """List the special tokens an answer can end with, the longest first."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = {str(token) for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        # GPT-2's vocabulary has one token for both ends of a text.
        texts -= {self.image_token, self.tokenizer.bos_token}
        texts |= set(self._stops)
        # Cohere's answers end with two tokens; generation stops at the second.
        texts |= {text + str(self.tokenizer.eos_token) for text in texts if self.tokenizer.eos_token}
        return sorted(texts, key=len, reverse=True)

    @functools.cached_property
    def answers(self) -> AnswerFinder:
        """What finds the answers of a conversation."""
        return AnswerFinder(
            write=self.write,
            ask=self.ask,
            marks=find_marks(self.template),
            lead=self.style.lead,
            end_of_turn=self.end_of_turn,
            stops=self._stops,
            tokenize=self.tokenize,
        )


def _has_system(text: str, sample: Sample, template: str) -> bool:
    """Whether it can be seen of a rendered conversation that it has the system prompt: by words of that alone."""
    prompts = [turn.text.strip() for turn in sample.turns if turn.role == "system"]
    if len(prompts) != 1 or sample.tools or any(turn.calls for turn in sample.turns):
        return not prompts
    if len(prompts[0]) < TELLING and SENTINELS.fullmatch(prompts[0]) is None:
        return False
    others = [said for turn in sample.turns if turn.role != "system" for said in (turn.text, turn.thought or "")]
    return prompts[0] in text and not any(prompts[0] in other for other in (template, *others))


def _end_turn(turn: Turn, end: str) -> Turn:
    """Write an end behind an answer."""
    is_ended = end and turn.role == "assistant" and not turn.calls
    return attrs.evolve(turn, parts=(turn.text + end,)) if is_ended else turn


def _strip_end(turn: Turn, end: str) -> Turn:
    text = turn.text.rstrip()
    if not end or turn.role != "assistant" or not text.endswith(end):
        return turn
    return attrs.evolve(turn, parts=(text.removesuffix(end),))
