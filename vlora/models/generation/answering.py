"""Answers the questions of rows, a batch at a time."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import attrs

from ...arguments import expect_at_least, expect_type
from ...data.prefetch import WorkerPool
from ...errors import AnswerError, SampleError
from ...recipe.schema import Recipe
from ...train.unbound import refuse_unbound
from ...types import Sample
from ..backbone.backbone import MlxVlmBackbone
from ..encode.encoder import Encoder
from ..foreign import foreign, name_failure
from ..load.loading import generating
from .decode import Prompt, decode
from .questions import Question, Questions
from .sampling import Sampler, media_tokens

Asked = tuple[int, Question | SampleError]
"""A row's place, and its question or the error."""

BATCHES_AHEAD = 4
"""Number of batches whose questions are read together, so that similar lengths share a batch."""


FEWEST_TOGETHER = 8
"""Questions that are answered together where memory has room for fewer rows with their gradients."""


def never() -> bool:
    """Never stop."""
    return False


@attrs.frozen(kw_only=True)
class AnswerOptions:
    """How questions are answered.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        temperature: 0 for the likeliest tokens; higher values draw more evenly.
        batch_size: Most questions that are answered together.
        seed: Random choices depend on this text and on the row only.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    batch_size: int = 8
    seed: str = ""

    def __attrs_post_init__(self) -> None:
        """Refuse what no answer can be made by."""
        for name, kinds, least in (
            ("max_new_tokens", int, 1),
            ("temperature", (int, float), 0),
            ("batch_size", int, 1),
        ):
            value = getattr(self, name)
            expect_type(value, kinds, f"AnswerOptions, {name}", "give a number")
            expect_at_least(value, least, f"AnswerOptions, {name}")


def answer_options(recipe: Recipe, step: int) -> AnswerOptions:
    """Say how a recipe has rows answered after some steps."""
    section = recipe.eval
    return AnswerOptions(
        max_new_tokens=section.max_new_tokens,
        temperature=section.temperature,
        batch_size=section.batch_size or max(FEWEST_TOGETHER, recipe.train.batch_size),
        seed=f"{recipe.train.seed} {step}",
    )


@attrs.frozen(eq=False, kw_only=True)
class Answered:
    """A question and the model's answer.

    Attributes:
        index: The row's place among the rows.
        question: The question.
        text: The answer, stripped.
    """

    index: int
    question: Question
    text: str


@attrs.frozen(eq=False, kw_only=True)
class Answerer:
    """Answers questions with the currently bound model.

    Attributes:
        backbone: The model, within `generating`.
        encoder: The encoder of training rows.
        options: How questions are answered.
        should_stop: Called before each token; True ends the answers, and incomplete ones are dropped.
        workers: Threads that read questions ahead; None to read them in turn.
    """

    backbone: MlxVlmBackbone
    encoder: Encoder
    options: AnswerOptions = AnswerOptions()
    should_stop: Callable[[], bool] = never
    workers: WorkerPool | None = None

    def answer(
        self,
        rows: Iterable[int],
        read: Callable[[int], Sample],
        *,
        locating: Callable[[int], AbstractContextManager[object]] = nullcontext,
    ) -> Iterator[Answered | SampleError]:
        """Answer the first question of each row, in order.

        Args:
            rows: Places of rows.
            read: Returns the row at a place.
            locating: Says in errors of the row at a place where it stands, as `RowDataset.locating` does.

        Yields:
            The answer, or the error.

        Raises:
            AnswerError: The model cannot answer.
        """
        asked, spell = Questions(self.encoder), self.encoder.tokenizer.convert_ids_to_tokens

        def ask(index: int) -> Asked:
            try:
                with locating(index):
                    question = asked(read(index))
                    # Pixels are packed, or features read, so that many rows can be held.
                    example = self.backbone.prepare(question.prompt.example, spell)
            except SampleError as error:
                return index, error
            return index, attrs.evolve(question, prompt=Prompt(example, question.prompt.length))

        together = BATCHES_AHEAD * self.options.batch_size
        found = map(ask, rows) if self.workers is None else self.workers.map(ask, rows, together)
        while not self.should_stop() and (waiting := list(itertools.islice(found, together))):
            yield from self._settle(waiting)

    def _settle(self, waiting: Sequence[Asked]) -> Iterator[Answered | SampleError]:
        """Answer the questions that were read, and return the answers in their order."""
        found: dict[int, Answered | SampleError] = {}
        questions = []
        for index, question in waiting:
            if isinstance(question, SampleError):
                found[index] = question
            else:
                questions.append((index, question))
        for batch in self._batches(questions):
            answers = self._decode(batch)
            if self.should_stop():
                return
            for (index, question), text in zip(batch, answers, strict=True):
                found[index] = Answered(index=index, question=question, text=text)
        yield from (found[index] for index, _ in waiting)

    def _batches(self, questions: Sequence[tuple[int, Question]]) -> Iterator[Sequence[tuple[int, Question]]]:
        """Divide questions into batches of similar length, or of equal length if the family needs it."""
        is_equal = self.backbone.family.forward.reading == "equal"
        batch: list[tuple[int, Question]] = []
        for index, question in sorted(questions, key=lambda found: found[1].prompt.length):
            differs = is_equal and batch and batch[0][1].prompt.length != question.prompt.length
            if len(batch) == self.options.batch_size or differs:
                yield batch
                batch = []
            batch.append((index, question))
        if batch:
            yield batch

    def _decode(self, batch: Sequence[tuple[int, Question]]) -> list[str]:
        options, encoder = self.options, self.encoder
        choose = Sampler(
            names=[f"{options.seed} {index}" for index, _ in batch],
            temperature=options.temperature,
            banned=media_tokens(self.backbone.module, encoder.image_id),
        )
        prompts = [question.prompt for _, question in batch]
        with foreign(lambda error: AnswerError(f"the model cannot answer: {name_failure(error)}")):
            answers = decode(
                self.backbone, prompts, options.max_new_tokens, choose, encoder.stop_ids, should_stop=self.should_stop
            )
            return [self._spell(tokens) for tokens in answers]

    def _spell(self, tokens: Sequence[int]) -> str:
        kept = tokens[:-1] if tokens and tokens[-1] in self.encoder.stop_ids else tokens
        text: str = self.encoder.tokenizer.decode(list(kept), clean_up_tokenization_spaces=False)
        return text.strip()


def answer(
    backbone: MlxVlmBackbone, encoder: Encoder, sample: Sample, *, max_new_tokens: int = 64, temperature: float = 0.0
) -> str:
    """Ask a trained model the first question of a sample.

    Args:
        backbone: The model; `bind` the trained state first.
        encoder: As returned by `load_data`; it renders the question as in training.
        sample: A conversation as returned by `format_sample`. The model does not see what follows the first question; a
            `Sample` of your own may end with the question.
        max_new_tokens: Longest answer in tokens.
        temperature: 0 for the likeliest tokens; higher values draw more evenly.

    Returns:
        The answer, stripped.

    Raises:
        SampleError: There is no question, it leaves no room within `data.max_seq_length`, or it or one of its images
            cannot be read.
        AnswerError: The model cannot answer.
        UnboundError: A state has the trained weights, and the model has not.
    """
    expect_type(sample, Sample, "answer, sample", "give a Sample, as format_sample makes it of a row")
    expect_type(encoder, Encoder, "answer, encoder", "give data.encoder, as load_data returns it")
    refuse_unbound(backbone.module, "answer", "the answer of a model whose trained weights are zeros")
    # The answer is compared with none, so that no mark of the sample's own one matters.
    sample = attrs.evolve(sample, is_wanted=None)
    options = AnswerOptions(max_new_tokens=max_new_tokens, temperature=temperature, batch_size=1)
    with generating(backbone):
        (found,) = Answerer(backbone=backbone, encoder=encoder, options=options).answer([0], lambda _: sample)
    if isinstance(found, SampleError):
        raise found
    return found.text
