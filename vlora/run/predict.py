"""Rows answered by a model, as metrics take them."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from ..arguments import expect_type
from ..data.prefetch import WorkerPool
from ..data.rows import RowDataset
from ..errors import SampleError
from ..evaluation.prediction import Prediction, plain_columns
from ..models import Answered, Answerer, AnswerOptions, Encoder, MlxVlmBackbone, generating
from ..train.unbound import refuse_unbound
from ..types import Sample


def predict(
    backbone: MlxVlmBackbone,
    encoder: Encoder,
    rows: RowDataset | Sequence[Sample],
    options: AnswerOptions | None = None,
    *,
    indices: Iterable[int] | None = None,
    step: int = 0,
    on_bad_row: Callable[[SampleError], None] | None = None,
    should_stop: Callable[[], bool] = bool,
    workers: WorkerPool | None = None,
) -> Generator[Prediction, None, None]:
    """Answer the first question of each row, a batch at a time, by the forward that is trained.

    Args:
        backbone: The model; `bind` a state before, if the model does not hold what was learned.
        encoder: As `load_data` gives it: it renders questions as in training.
        rows: The rows, as `load_data` gives them, or Samples of your own.
        options: How they are answered.
        indices: Which of them; all without it.
        step: How many steps the model has been trained.
        on_bad_row: Is told why a row cannot be answered, or is not asked; without it that is raised.
        should_stop: Asked before each token; True leaves the rest off.
        workers: Threads that read rows ahead.

    Yields:
        An answer of each row, in the order of the rows.

    Raises:
        UnwantedAnswerError: A row's answer is marked as unwanted, which says nothing of a right one.
        SampleError: A row cannot be read, or its question leaves no room within `data.max_seq_length`.
        AnswerError: The model cannot answer.
        UnboundError: A state has the trained weights, and the model has not.
    """
    refuse_unbound(backbone.module, "predict", "answers of a model whose trained weights are zeros")
    read: dict[int, dict[str, Any]] = {}

    def read_row(index: int) -> Sample:
        if not isinstance(rows, RowDataset):
            expect_type(
                rows[index], Sample, "predict, rows", "give data.valid, or Samples, as format_sample makes them"
            )
            return rows[index]
        row, sample = rows.read(index)
        read[index] = plain_columns(row)
        return sample

    answerer = Answerer(
        backbone=backbone,
        encoder=encoder,
        options=options or AnswerOptions(),
        should_stop=should_stop,
        workers=workers,
    )
    asked = range(len(rows)) if indices is None else indices
    locating = rows.locating if isinstance(rows, RowDataset) else nullcontext
    style = backbone.family.format.boxes
    with generating(backbone):
        for found in answerer.answer(asked, read_row, locating=locating):
            if isinstance(found, Answered):
                yield _describe(found, step, read.pop(found.index, {}), None if style is None else style.name)
            elif on_bad_row is None:
                raise found
            else:
                on_bad_row(found)


def describe_unwanted(n_rows: int) -> str:
    """Say that rows were not asked since they do not say what would be right."""
    left = "1 row was" if n_rows == 1 else f"{n_rows:,} rows were"
    return f"{left} not asked: what is marked as unwanted is no answer to expect"


def _describe(answered: Answered, step: int, columns: dict[str, Any], convention: str | None) -> Prediction:
    question = answered.question
    return Prediction(
        row=question.source,
        images=question.images,
        prompt=question.text,
        expected=question.expected,
        answer=answered.text,
        step=step,
        columns=columns,
        image_sizes=question.image_sizes,
        convention=convention,
    )
