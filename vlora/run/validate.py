"""Events of a validation: the loss on held-out rows, and the model's answers to their questions."""

from collections.abc import Callable, Generator, Iterator

import attrs

from .. import models
from ..errors import AnswerError, SampleError
from ..events import Event, Generated, Warned
from ..memory.limits import naming_shortage
from .context import RunContext

FEWEST_TOGETHER = 8
"""Questions that are answered together where memory has room for fewer rows with their gradients."""

FEWER_ANSWERS = "lower eval.max_new_tokens or data.max_pixels, or leave answers out with --set eval.answer_rows=0"


def validate(run: RunContext, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
    """Validate the newest state and write its loss, if there are rows to validate on.

    Args:
        run: The run.
        should_stop: Asked between batches; True leaves the validation off where it is.

    Returns:
        Whether it was left off.
    """
    validator = run.validator
    if validator is None:
        return False
    found = validator.measure(run.loop.state, should_stop)
    if found is None:
        return True
    yield from run.drain_events()
    if found.cuts.n_rows and not validator.has_told_cuts:
        # Once: they are the same every time.
        validator.has_told_cuts = True
        yield Warned(message=f"validation: {found.cuts.describe()}")
    if not found.n_tokens:
        name = validator.rows.name
        yield Warned(message=f"validation: of the rows of {name} that were read none can be learned from")
        return False
    step = int(run.loop.state.step)
    yield run.metrics.write(
        {"step": step, "valid_loss": found.loss, "valid_tokens": found.n_tokens, "valid_rows": found.n_rows}
    )
    run.metrics.validated = step
    return False


def answer(run: RunContext, when: str, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Let the newest state answer the questions of held-out rows, if the recipe asks for it.

    Args:
        run: The run.
        when: "before" or "after" training.
        should_stop: Asked between answers; True leaves the rest off.
    """
    section, rows = run.recipe.eval, run.data.valid
    if not section.answer_rows or rows is None:
        return
    total = len(rows) if section.answer_rows == -1 else min(section.answer_rows, len(rows))
    right = done = 0
    last: Generated | None = None
    options = models.AnswerOptions(
        max_new_tokens=section.max_new_tokens, batch_size=max(FEWEST_TOGETHER, run.recipe.train.batch_size)
    )
    answerer = models.Answerer(
        backbone=run.backbone,
        encoder=run.data.encoder,
        options=options,
        should_stop=should_stop,
        workers=run.loader.workers,
    )
    with run.bound(), models.generating(run.backbone):
        answers = answerer.answer(range(total), rows.__getitem__)
        while True:
            try:
                with naming_shortage(f"answering rows {when} training", remedy=FEWER_ANSWERS):
                    answered = next(answers, None)
            except AnswerError as error:
                yield Warned(message=f"answers {when} training: {error}; accuracy left out")
                return
            if should_stop():
                yield Warned(message=f"answers {when} training: stopped after {done} of {total} rows")
                return
            if answered is None:
                break
            if isinstance(answered, SampleError):
                run.loader.skip(answered)
                total -= 1
                yield from run.drain_events()
                continue
            if last is not None:
                yield attrs.evolve(last, total=total)
            expected, found = answered.question.expected, answered.text
            done, right = done + 1, right + (expected == found)
            # Told when the next one is there: rows behind it that cannot be read would change the total.
            last = Generated(when=when, done=done, total=total, accuracy=right / done, expected=expected, found=found)
    if last is None:
        return
    yield attrs.evolve(last, total=total)
    run.metrics.accuracy[f"accuracy_{when}"] = last.accuracy
    yield run.metrics.write({"step": int(run.loop.state.step), **run.metrics.accuracy})
