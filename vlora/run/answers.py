"""Rounds of answers: held-out rows answered by the newest state, scored and written."""

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import attrs

from .. import models
from ..errors import AnswerError, EvaluationError, SampleError, UnwantedAnswerError
from ..evaluation.metrics import score
from ..evaluation.prediction import Prediction, dump_prediction, parse_prediction
from ..events import Event, Generated, Scored, Warned, Working
from ..memory.limits import naming_shortage
from ..train.schedules import is_due
from .choice import OF_ANSWERS
from .context import RunContext
from .predict import describe_unwanted, predict

FEWER_ANSWERS = (
    "lower eval.batch_size, eval.max_new_tokens or data.max_pixels, or leave answers out with --set eval.answer_rows=0"
)


@attrs.define(kw_only=True)
class Round:
    """One round of answers.

    Attributes:
        when: "before", "during" or "after" training.
        step: Steps done.
        total: Answers to come to: rows that cannot be read are none.
        n_unwanted: Rows that were not asked, since their answers are marked as unwanted.
        right: Answers that are the expected ones to the letter.
        predictions: What was answered.
        last: The last answer, which is told when the next one is there: rows behind it that cannot be read would change
            the total.
    """

    when: str
    step: int
    total: int
    n_unwanted: int = 0
    right: int = 0
    predictions: list[Prediction] = attrs.field(factory=list)
    last: Generated | None = None

    def add(self, prediction: Prediction) -> Iterator[Generated]:
        """Take an answer in, and tell the one before it."""
        yield from self.tell_last()
        self.predictions.append(prediction)
        self.right += prediction.expected == prediction.answer
        self.last = self.describe(prediction)

    def describe(self, prediction: Prediction) -> Generated:
        """Describe the newest answer."""
        return Generated(
            when=self.when,
            done=len(self.predictions),
            total=self.total,
            accuracy=self.right / len(self.predictions),
            expected=prediction.expected,
            found=prediction.answer,
            row=prediction.row,
        )

    def tell_last(self) -> Iterator[Generated]:
        """Tell the last answer."""
        if self.last is not None:
            yield attrs.evolve(self.last, total=self.total)


def answer(run: RunContext, when: str, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
    """Let the newest state answer the questions of held-out rows, if the recipe asks for it.

    Args:
        run: The run.
        when: "before", "during" or "after" training.
        should_stop: Asked before each token; True leaves the rest off.

    Returns:
        Whether the round was left off.
    """
    section, rows = run.recipe.eval, run.data.valid
    if not section.answer_rows or rows is None:
        return False
    total = len(rows) if section.answer_rows == -1 else min(section.answer_rows, len(rows))
    yield Working(what=f"answering {when} training", total=total)
    found = Round(when=when, step=int(run.loop.state.step), total=total)
    try:
        is_left = yield from _ask(run, found, should_stop)
    except AnswerError as error:
        yield Warned(message=f"answers {when} training: {error}; accuracy left out")
        return False
    if is_left:
        done = len(found.predictions)
        yield Warned(message=f"answers {when} training: stopped after {done} of {found.total} rows")
        run.left_off += (f"answers {when} training",)
        return True
    if found.n_unwanted:
        yield Warned(message=f"answers {when} training: {describe_unwanted(found.n_unwanted)}")
    if found.last is not None:
        yield from found.tell_last()
        yield from _close(run, found, found.last.accuracy)
    return False


def answer_between(run: RunContext, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Answer behind a step, if a round is due there and was not given; behind the last one another round comes."""
    every, step, n_steps = run.recipe.eval.answer_every, run.done, run.n_steps
    if every and run.metrics.answered < step and not run.is_over and is_due(step, every, n_steps):
        is_left = yield from answer(run, "during", should_stop)
        run.loop.is_stopped |= is_left
        run.metrics.answered = run.metrics.answered if is_left else step


def _ask(run: RunContext, found: Round, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
    """Answer the rows of a round; whether it was left off."""
    rows = run.data.valid
    assert rows is not None  # noqa: S101 - `answer` has asked
    # Each rank answers its share; afterwards every one has all answers, in the order of the rows.
    indices = range(run.ranks.rank, found.total, run.ranks.size)
    found.total = len(indices)

    def skip(error: SampleError) -> None:
        if isinstance(error, UnwantedAnswerError):
            found.n_unwanted += 1
        else:
            run.loader.skip(error)
        found.total -= 1

    answers = predict(
        run.backbone,
        run.data.encoder,
        rows,
        models.answer_options(run.recipe, found.step),
        indices=indices,
        step=found.step,
        on_bad_row=skip,
        should_stop=should_stop,
        workers=run.loader.workers,
    )
    problem: str | None = None
    try:
        yield from _take(run, found, answers, should_stop)
    except AnswerError as error:
        if run.ranks.size == 1:
            raise
        # The other ranks, which may have had nothing to ask, wait for what this one tells.
        problem = str(error)
    if run.ranks.size > 1:
        return _join(run, found, is_left=should_stop(), problem=problem)
    return should_stop()


def _take(
    run: RunContext, found: Round, answers: Generator[Prediction, None, None], should_stop: Callable[[], bool]
) -> Iterator[Event]:
    """Take in this rank's answers."""
    with run.bound(), closing(answers) as predictions:
        while True:
            with naming_shortage(f"answering rows {found.when} training", remedy=FEWER_ANSWERS):
                prediction = next(predictions, None)
            yield from run.drain_events()
            if should_stop() or prediction is None:
                break
            yield from found.add(prediction)


def _join(run: RunContext, found: Round, *, is_left: bool, problem: str | None) -> bool:
    """Take in the answers of all ranks; whether any was left off.

    Raises:
        AnswerError: The model cannot answer on one of the ranks.
    """
    own = [dump_prediction(prediction) for prediction in found.predictions]
    gathered = run.ranks.gather((problem, own, found.total, found.n_unwanted, is_left))
    if (failed := next(filter(None, (problem for problem, *_ in gathered)), None)) is not None:
        raise AnswerError(failed)
    told = [rest for _, *rest in gathered]
    shares = [[parse_prediction(line, "another rank")[0] for line in lines] for lines, *_ in told]
    found.predictions = [each for row in itertools.zip_longest(*shares) for each in row if each is not None]
    found.total = sum(total for _, total, *_ in told)
    found.n_unwanted = sum(n_unwanted for *_, n_unwanted, _ in told)
    found.right = sum(each.expected == each.answer for each in found.predictions)
    if found.predictions:
        # This rank may have had no row that could be asked.
        found.last = found.describe((shares[run.ranks.rank] or found.predictions)[-1])
    return any(was_left for *_, was_left in told)


def _close(run: RunContext, found: Round, accuracy: float) -> Iterator[Event]:
    """Score a round's answers, and write them and what was found."""
    try:
        scores = score(run.answer_metrics, found.predictions)
    except EvaluationError as error:
        yield Warned(message=f"answers {found.when} training: {error}; their metrics are left out")
        scores = score((), found.predictions)
    if scores.idle and found.when != "during":
        idle = ", ".join(scores.idle)
        yield Warned(
            message=f"answers {found.when} training: {idle}: no row has what this measures; README's table of metrics "
            "says what that is"
        )
    pairs = zip(found.predictions, scores.rows, strict=True)
    run.predictions.write(dump_prediction(prediction, own) for prediction, own in pairs)
    if scores.summary:
        written = run.metrics.write_scores(found.step, scores.summary, len(found.predictions))
        run.judge(written.metrics)
        yield written
        judged_by = run.choice.judged_by
        if judged_by.startswith(OF_ANSWERS) and judged_by not in written.metrics:
            there = ", ".join(scores.summary)
            yield Warned(
                message=f"output.keep_best: the answers {found.when} training have no such value, only {there}"
            )
        yield Scored(when=found.when, step=found.step, scores=scores.summary, n_rows=len(found.predictions))
    if found.when != "during":
        run.metrics.accuracy[f"accuracy_{found.when}"] = accuracy
        yield run.metrics.write({"step": found.step, **run.metrics.accuracy})
