"""A conversation with a model: each answer as it is written, earlier ones kept as context."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import attrs

from ...errors import AnswerError
from ...types import ImageSlot, Sample, Turn
from ..backbone.backbone import MlxVlmBackbone
from ..encode.encoder import Encoder
from ..foreign import foreign, name_failure
from ..load.loading import generating
from .answering import AnswerOptions
from .decode import Prompt, stream
from .questions import Questions
from .sampling import Sampler, media_tokens

SOURCE = "the question"
"""How errors name what was asked."""

UNFINISHED, MOST_UNFINISHED = "\ufffd", 3
"""Stands for a byte of a character that a tokenizer has not seen whole, and how many of them may wait for more."""


@attrs.define(eq=False, kw_only=True)
class Talk:
    """Asks a model one question after another, by the forward that is trained.

    Attributes:
        backbone: The model.
        encoder: Renders questions as in training.
        options: How they are answered.
        system: A system prompt; None for none.
        turns: What was said so far.
        images: What was shown so far.
        n_tokens: Tokens of the last answer.
        is_whole: Whether the last answer has come to its end.
    """

    backbone: MlxVlmBackbone
    encoder: Encoder
    options: AnswerOptions
    system: str | None = None
    turns: list[Turn] = attrs.field(factory=list)
    images: list[Any] = attrs.field(factory=list)
    n_tokens: int = 0
    is_whole: bool = False

    def begin_anew(self) -> None:
        """Forget what was said and shown."""
        self.turns, self.images = [], []

    def ask(self, text: str, images: Sequence[Any] = ()) -> Generator[str, None, None]:
        """Ask a question; what was said before it is its context.

        Args:
            text: The question.
            images: Paths of images that it shows; they stand before the text.

        Yields:
            The answer piece by piece. An iterator that is closed early ends the answer, and what there is of it stays
            in the conversation.

        Raises:
            SampleError: An image cannot be read, or the family takes no such conversation; nothing was said then.
            AnswerError: The model cannot answer; nothing was said then.
        """
        slots = tuple(ImageSlot(len(self.images) + place) for place in range(len(images)))
        turns, shown = [*self.turns, Turn("user", (*slots, text))], [*self.images, *images]
        system = [Turn("system", (self.system,))] if self.system else []
        question = Questions(self.encoder).last(Sample(SOURCE, (*system, *turns), tuple(shown)))
        example = self.backbone.prepare(question.prompt.example, self.encoder.tokenizer.convert_ids_to_tokens)
        sampler = Sampler(
            names=[f"{self.options.seed} {len(turns)}"],
            temperature=self.options.temperature,
            banned=media_tokens(self.backbone.module, self.encoder.image_id),
        )
        self.n_tokens, self.is_whole = 0, False
        said = ""
        try:
            for piece in self._write(Prompt(example, question.prompt.length), sampler):
                said += piece
                yield piece
        except AnswerError:
            raise
        except BaseException:
            self._keep(turns, shown, said)
            raise
        self._keep(turns, shown, said)

    def _keep(self, turns: list[Turn], shown: list[Any], said: str) -> None:
        if said:
            self.turns, self.images = [*turns, Turn("assistant", (said,))], shown

    def _write(self, prompt: Prompt, sampler: Sampler) -> Iterator[str]:
        """Yield what each token adds to the answer; blanks around it are left out."""
        stop_ids, tokens, sent = self.encoder.stop_ids, list[int](), ""
        room = self.options.max_new_tokens
        with (
            foreign(lambda error: AnswerError(f"the model cannot answer: {name_failure(error)}")),
            generating(self.backbone),
        ):
            for token in stream(self.backbone, prompt, room, sampler, stop_ids):
                self.n_tokens += 1
                self.is_whole = token in stop_ids
                if not self.is_whole:
                    tokens.append(token)
                text = self._spell(tokens)
                for _ in range(MOST_UNFINISHED):
                    text = text.removesuffix(UNFINISHED)
                if text.startswith(sent) and len(text) > len(sent):
                    piece, sent = text[len(sent) :], text
                    yield piece
            # Bytes that are no character are one in the end, too.
            if (text := self._spell(tokens)).startswith(sent) and len(text) > len(sent):
                yield text[len(sent) :]

    def _spell(self, tokens: Sequence[int]) -> str:
        text: str = self.encoder.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        return text.strip()
