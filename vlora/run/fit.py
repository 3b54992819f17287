"""A recipe carried out: rows in, steps taken, files written, events out. It prints nothing; the caller shows events."""

import gc
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import mlx.core as mx

from ..errors import OutOfMemoryError
from ..estimate import shortage
from ..estimate.foresight import foresee
from ..estimate.shortage import without_references
from ..events import Event, StepReport, StoppedEarly, Warned, Working
from ..recipe.schema import Recipe
from ..system.endings import close_at_exit, watch_thread
from ..train.schedules import is_due
from .answers import answer, answer_between
from .context import RunContext
from .finish import finish
from .save import rescue, save, save_best, save_last_choice, save_numbered
from .start import start
from .untrained import tell_untrained
from .validate import validate


def fit(
    recipe: Recipe, *, resume: bool = False, or_start: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Generator[Event, None, None]:
    """Carry out a recipe.

    A run may be left before its end: with `close()`, by dropping the last reference to it, or by ending the
    interpreter. Its threads have ended then, its files are closed, and another run may take its folder. What was saved
    last stays.

    Args:
        recipe: What to do.
        resume: Go on exactly from the training state beside the output: same weights, optimizer, rows and dropout
            as if the run had never stopped.
        or_start: With `resume`: begin anew where there is no training state. One that cannot be read, or belongs to
            another recipe, is an error all the same.
        should_stop: Asked after every step, and then between batches of a validation and between answers; True saves
            and ends the run in order, a validation or answers left off where they are.

    Yields:
        Events as they happen, `Finished` last.

    Raises:
        VloraError: Whatever the user can mend. Nothing non-finite is ever saved. Whatever a run ends with, the steps
            before it are saved first, if they can still be read and written; the message or a note of the error says
            which step `resume` goes on from.
    """
    run = _fit(recipe, resume=resume, or_start=or_start, should_stop=should_stop)
    close_at_exit(run)
    return run


def _fit(
    recipe: Recipe, *, resume: bool, or_start: bool, should_stop: Callable[[], bool]
) -> Generator[Event, None, None]:
    run: RunContext | None = None
    # The thread that takes a run may be another one than has made it.
    watch_thread()
    try:
        with ExitStack() as stack:
            run = yield from start(recipe, stack, resume=resume, or_start=or_start, should_stop=should_stop)
            try:
                yield from _before_steps(run)
                for step, report in () if run.is_early else run.loop.run(foresee(recipe, run.backbone, run.source)):
                    yield from _after_step(run, step, report)
                yield from _after_steps(run)
            except (Exception, KeyboardInterrupt) as error:
                yield from rescue(run, error)
                raise
    except OutOfMemoryError as error:
        failed, saved = without_references(error), None if run is None else run.saved or None
    else:
        return
    # What would fit is planned with the memory that the run has held.
    del run
    gc.collect()
    mx.clear_cache()
    yield Warned(message=f"{failed.where}: {failed.problem}; looking for what would fit")
    raise without_references(failed, shortage.advise(recipe, failed, saved))


def _before_steps(run: RunContext) -> Iterator[Event]:
    """Answer and validate where a run begins; where one goes on, do what the earlier one was ended in."""
    if run.found is None:
        yield from answer(run, "before", _never)
        yield from validate(run, _never)
    elif run.metrics.is_marked:
        yield from _follow_up(run, is_again=True)
    if not run.is_over:
        yield Working(what="compiling the first step")


def _after_step(run: RunContext, step: int, report: StepReport | None) -> Iterator[Event]:
    """Yield a step's report, and do what is due behind it; None for a step that was passed over."""
    yield from run.drain_events()
    yield from run.count(step, report)
    if report is not None:
        yield from tell_untrained(run, report.loss, is_held_out=False)
    yield from _follow_up(run)


def _after_steps(run: RunContext) -> Iterator[Event]:
    """Save the run under its own name, answer if it is over, and sum it up."""
    yield from run.share_rows()
    if run.metrics.has_steps:
        yield run.write_interval(is_provisional=True)
    if run.is_early:
        yield StoppedEarly(
            step=run.done,
            n_steps=run.n_steps,
            n_stale=run.choice.n_stale,
            judged_by=run.choice.judged_by,
            reference=run.choice.reference,
            min_delta=run.recipe.train.early_stopping_min_delta,
        )
    yield save(run, run.paths.weights)
    yield from run.drain_events()
    if run.is_over:
        choice = run.choice
        yield from answer(run, "after", run.loop.should_stop)
        if run.choice != choice:
            yield from save_last_choice(run)
    yield from run.share_rows()
    yield finish(run)


def _follow_up(run: RunContext, *, is_again: bool = False) -> Iterator[Event]:
    """Report, validate, answer and save behind a step what is due there; again only what has not been done."""
    train, step, n_steps = run.recipe.train, run.done, run.n_steps
    if run.shares_features(step):
        run.share_features()
    is_shared = any(is_due(step, every, n_steps) for every in (train.steps_per_eval, train.steps_per_save))
    if is_shared:
        # The device is waited for there anyway; behind every report it would be left without work.
        yield from run.share_rows()
    if run.metrics.has_steps and is_due(step, train.steps_per_report, n_steps):
        yield run.write_interval(is_shared=is_shared)
    if run.metrics.validated < step and is_due(step, train.steps_per_eval, n_steps):
        is_left = yield from validate(run, _never if is_again else run.loop.should_stop)
        run.loop.is_stopped |= is_left
    yield from answer_between(run, _never if is_again else run.loop.should_stop)
    yield from save_numbered(run, is_again=is_again)
    # Behind the training state, which knows which one it is: a run that goes on from there writes it once more.
    yield from save_best(run)
    run.loop.is_stopped |= run.is_early


def _never() -> bool:
    """Before the first step there is nothing to save: a run that is to end then ends at once, and not in order."""
    return False
