"""Rows as text: the chat template's, with the places of what is learned."""

import attrs
import numpy as np

from ...data.masking import Tokenize, mask_completions
from ...errors import SampleError
from ...facts import TemplateUse
from ...recipe.schema import DataSection
from ...types import BoolArray, ImageSlot, IntArray, Sample, Turn
from ..families.family import Family
from .template.conversation import Conversations
from .template.expressing import refuse_unexpressed
from .template.named import PLAIN
from .template.roles import find_role_spans, roles_of_tokens
from .tokens import RowTokenizer, Span
from .written_memory import WrittenMemory


@attrs.frozen(eq=False, kw_only=True)
class Written:
    """A row as text and its tokens.

    Attributes:
        text: What the processor is given; an image is one token.
        spans: Character spans of its answers; empty where no mask is needed.
        plain: i32[P], its tokens.
        learned: bool[P], those that are learned, as far as they are text.
    """

    text: str
    spans: list[Span]
    plain: IntArray
    learned: BoolArray


@attrs.frozen(eq=False, kw_only=True)
class RowWriter:
    """Writes one model's conversations, and says which of their tokens are learned.

    Attributes:
        family: The family's description.
        data: The recipe's section.
        tokens: Tokenizes what is written.
        conversations: The chat template.
        template_origin: Whose the chat template is.
        memory: Remembers rows that were written.
    """

    family: Family
    data: DataSection
    tokens: RowTokenizer
    conversations: Conversations
    template_origin: TemplateUse
    memory: WrittenMemory[Written] = attrs.field(factory=WrittenMemory)

    def write(self, sample: Sample) -> Written:
        """Write a row whose boxes are written as text: what its processor is given, its tokens, and what is learned.

        Raises:
            SampleError: The row cannot be written.
        """
        return self.memory.get_or_compute(sample, self._write)

    def _write(self, sample: Sample) -> Written:
        refuse_unexpressed(sample, self.conversations.style)
        if self.family.format.is_prefix_lm and not sample.images:
            msg = f"{sample.source}: the row has no image; this model reads one in every row"
            raise SampleError(msg)
        text, spans = self._render(self.conversations.prepare(sample))
        if text.count(self.tokens.image_token) != len(sample.images):
            msg = (
                f"{sample.source}: the chat template writes {text.count(self.tokens.image_token)} places for "
                f"{len(sample.images)} images; does the text hold {self.tokens.image_token!r} itself?"
            )
            raise SampleError(msg)
        tokenize = self._tokenize(text)
        text, spans = self.tokens.with_one_bos(text, spans)
        marked = self._learned_spans(sample, spans)
        plain, in_spans = mask_completions(
            self.tokens.spell(text), self.tokens.spell_spans(text, marked), tokenize, sample.source
        )
        learned = in_spans if self.data.train_on_completions else ~in_spans
        if self._begins_at_id and self.data.train_on_completions:
            learned = self._after_assistant_id(plain, sample.source)
        return Written(text=text, spans=spans, plain=plain, learned=learned)

    def find_roles(self, sample: Sample, written: Written) -> list[str] | None:
        """Say of each token of a written row whose it is; None if it cannot be told.

        Raises:
            SampleError: The template refuses the row with other texts in it.
        """
        sample = self.conversations.prepare(sample)
        text = self.conversations.write(sample)
        spans = find_role_spans(text, sample, self.conversations.write)
        whole, moved = self.tokens.with_one_bos(text, [(start, end) for _, start, end in spans or ()])
        if spans is None or whole != written.text:
            return None
        moved = self.tokens.spell_spans(whole, moved)
        found = [(role, *span) for (role, *_), span in zip(spans, moved, strict=True)]
        return roles_of_tokens(self.tokens.spell(whole), found, self._tokenize(text))

    def _tokenize(self, text: str) -> Tokenize:
        """Give what tokenizes a text that the template wrote, once it has its BOS."""
        return self.tokens if text.startswith(self.tokens.tokenizer.bos_token or "") else self.tokens.behind_bos

    def render(self, sample: Sample, *, add_generation_prompt: bool = False) -> str:
        """Render a conversation as the model reads it, one BOS included; images are one token each."""
        sample = self.conversations.prepare(sample)
        if add_generation_prompt:
            text = self.conversations.ask(sample)
        elif self.conversations.answers.is_plain(sample):
            text = self.conversations.write(sample)
        else:
            text = self._render(sample)[0]
        return self.tokens.with_one_bos(text, [])[0]

    def prompt(self, sample: Sample) -> str:
        """Write a question as mlx-vlm's generation gives it to the processor."""
        if self.family.format.process is not None:
            return sample.turns[-1].text
        text = self.render(sample, add_generation_prompt=True)
        return self.tokens.without_additions(text) if self.family.format.is_prefix_lm else text

    def ask(self, question: Sample, answer: Turn) -> tuple[str, str]:
        """Write a question as `prompt` does, and what is to be generated for it.

        Args:
            question: A conversation that ends with a question.
            answer: The answer that a row has to it. The prompt is the one behind which that answer is learned; whether
                it asks for a thought depends on whether the answer has one.

        Raises:
            SampleError: The template cannot express the answer.
        """
        if not self.conversations.template or self.family.format.process is not None or self.family.format.is_prefix_lm:
            return self.prompt(question), answer.text
        sample = attrs.evolve(question, turns=(*question.turns, answer))
        refuse_unexpressed(sample, self.conversations.style)
        located = self.conversations.answers(self.conversations.prepare(sample))
        start, end = located.spans[-1]
        return self.tokens.with_one_bos(located.text[:start], [])[0], self._without_end(located.text[start:end])

    def divide(self, sample: Sample, written: Written) -> tuple[str, str]:
        """Divide a row into the text before its last answer, and the answer without its end; see `ask`."""
        if not written.spans or self.family.format.process is not None or self.family.format.is_prefix_lm:
            return self.ask(attrs.evolve(sample, turns=sample.turns[:-1]), sample.turns[-1])
        start, end = written.spans[-1]
        return written.text[:start], self._without_end(written.text[start:end])

    def _without_end(self, answer: str) -> str:
        return answer.removesuffix(
            next((token for token in self.conversations.end_of_turn if answer.endswith(token)), "")
        )

    def template_use(self) -> TemplateUse:
        """Say which chat template writes the rows, and how answers end.

        Raises:
            ModelError: The template renders no conversation, or nothing ends its answers.
        """
        ending = self.conversations.ending
        return attrs.evolve(
            self.template_origin,
            ending=ending.text,
            adds_ending=bool(ending.each or ending.last or ending.closing),
            ignores_assistant_id=self.data.assistant_id is not None and not self._begins_at_id,
        )

    @property
    def _begins_at_id(self) -> bool:
        """Whether a token, and not the turns' places, says where what is learned begins."""
        return self.data.chat_template == PLAIN and self.data.assistant_id is not None

    def _render(self, sample: Sample) -> tuple[str, list[Span]]:
        answers = [turn for turn in sample.turns if turn.role == "assistant"]
        if any(isinstance(part, ImageSlot) for turn in answers for part in turn.parts):
            msg = f"{sample.source}: an assistant turn holds an image; images can be shown, not answered"
            raise SampleError(msg)
        is_masked = self.data.train_on_completions or _has_unlearned(sample)
        if not is_masked and self.conversations.answers.is_plain(sample):
            return self.conversations.write(sample), []
        located = self.conversations.answers(sample)
        return located.text, located.spans

    def _learned_spans(self, sample: Sample, spans: list[Span]) -> list[Span]:
        """Say which spans make the mask: of answers that are learned, or where all text is, of those that are not.

        Raises:
            SampleError: A turn is not to be learned that no mask tells from the rest.
        """
        if self._begins_at_id and _has_unlearned(sample):
            msg = (
                f"{sample.source}: a turn is marked as not to be learned, and data.assistant_id tells no turns apart; "
                "leave it out, and the turns' own places are used"
            )
            raise SampleError(msg)
        if not self.data.train_on_completions:
            for number, turn in enumerate(sample.turns, 1):
                if turn.role != "assistant" and not turn.learned:
                    msg = (
                        f"{sample.source}: turn {number} is the {turn.role}'s and marked as not to be learned; set "
                        "data.train_on_completions = true, with which only answers are"
                    )
                    raise SampleError(msg)
        answers = [turn for turn in sample.turns if turn.role == "assistant"]
        is_chosen = self.data.train_on_completions
        return [span for span, turn in zip(spans, answers, strict=False) if turn.learned == is_chosen]

    def _after_assistant_id(self, plain: IntArray, source: str) -> BoolArray:
        positions = np.flatnonzero(plain == self.data.assistant_id)
        if not len(positions):
            msg = (
                f"{source}: the row has no token data.assistant_id={self.data.assistant_id}, after which the answer "
                "would begin; leave it out, and the turns' own places are used"
            )
            raise SampleError(msg)
        after: BoolArray = np.arange(len(plain)) > positions[0]
        return after


def _has_unlearned(sample: Sample) -> bool:
    return not all(turn.learned for turn in sample.turns)
