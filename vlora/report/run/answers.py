"""Answers to the same held-out rows over the course of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from ...errors import EvaluationError, SampleError
from ...evaluation.prediction import Prediction, parse_prediction
from ...models import open_image
from ...recipe.schema import DataSection
from ...types import HeldOut
from ..pictures import Picture, make_picture

N_ROWS = 8
"""Number of rows whose answers are shown."""

MOST_ROUNDS = 6
"""Most answers that are shown per row: the first, the last, and some between."""

MOST_READ = 64
"""Most held-out rows that are searched for those that were answered."""

SIDE, BYTES = 256, 24_000
"""Of a picture: pixels of its longer side at most, and bytes."""


@attrs.frozen(kw_only=True)
class Answer:
    """The answer to a row after some steps.

    Attributes:
        step: Number of steps.
        text: The answer.
        scores: Its scores by metric.
        is_expected: Whether it equals the row's answer exactly.
    """

    step: int
    text: str
    scores: Mapping[str, float]
    is_expected: bool


@attrs.frozen(kw_only=True)
class AnsweredRow:
    """A held-out row with its answers.

    Attributes:
        row: Its name.
        question: Its question.
        expected: Its own answer.
        answers: The model's, by steps.
        pictures: Its images.
    """

    row: str
    question: str
    expected: str
    answers: tuple[Answer, ...]
    pictures: tuple[Picture, ...] = ()


def read_answers(file: Path, n_rows: int = N_ROWS) -> list[AnsweredRow]:
    """Read the answers to the first rows of a predictions.jsonl; damaged lines are ignored.

    Args:
        file: The file; there need not be one.
        n_rows: How many rows.
    """
    found: dict[str, dict[int, tuple[Prediction, dict[str, float]]]] = {}
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", errors="replace", newline="\n") as opened:
        for text in opened:
            try:
                prediction, scores = parse_prediction(text, "")
            except EvaluationError:
                # A killed or running process may have written a part of the last line.
                continue
            if prediction.row in found or len(found) < n_rows:
                found.setdefault(prediction.row, {})[prediction.step] = (prediction, scores)
    return [_describe(rounds) for rounds in found.values()]


def _describe(rounds: Mapping[int, tuple[Prediction, dict[str, float]]]) -> AnsweredRow:
    answers = [
        Answer(
            step=step,
            text=prediction.answer,
            scores=scores,
            is_expected=prediction.answer.strip() == prediction.expected.strip(),
        )
        for step, (prediction, scores) in sorted(rounds.items())
    ]
    prediction, _ = rounds[max(rounds)]
    return AnsweredRow(
        row=prediction.row, question=prediction.prompt, expected=prediction.expected, answers=tuple(choose(answers))
    )


def choose(answers: Sequence[Answer], most: int = MOST_ROUNDS) -> list[Answer]:
    """Choose the first and the last of a row's answers, and some between, equally far apart."""
    if len(answers) <= most:
        return list(answers)
    places = {round(number * (len(answers) - 1) / (most - 1)) for number in range(most)}
    return [answers[place] for place in sorted(places)]


@attrs.define(eq=False)
class RowPictures:
    """The pictures and questions of held-out rows, read when they are first asked for.

    Attributes:
        rows: The held-out rows.
        data: How their images are opened.
    """

    rows: HeldOut
    data: DataSection
    _found: dict[str, tuple[str, tuple[Picture, ...]]] = attrs.field(factory=dict, init=False)
    _n_read: int = attrs.field(default=0, init=False)

    def add(self, answered: AnsweredRow) -> AnsweredRow:
        """Add the pictures and the question of a row, if it is found."""
        while answered.row not in self._found and self._n_read < min(len(self.rows), MOST_READ):
            self._read(self._n_read)
            self._n_read += 1
        question, pictures = self._found.get(answered.row, (answered.question, ()))
        return attrs.evolve(answered, question=question or answered.question, pictures=pictures)

    def _read(self, index: int) -> None:
        try:
            sample = self.rows[index]
            pictures = tuple(
                self._open(image, f"image {number} of {sample.source}", sample.source)
                for number, image in enumerate(sample.images, start=1)
            )
        except SampleError:
            # Told when it was to be answered.
            return
        question = next((turn.text for turn in sample.turns if turn.role == "user"), "")
        self._found[sample.source] = (question, pictures)

    def _open(self, image: object, about: str, source: str) -> Picture:
        section = self.data
        opened = open_image(
            image, source, section.image_resize_shape, section.max_pixels, allow_urls=section.allow_urls
        )
        return make_picture(opened, about, most_bytes=BYTES, longest_side=SIDE)
