"""What a run knows of its states when it begins or goes on, and whether the best one is still there."""

import json

from ..events import Warned
from ..output.paths import BEST_FILE
from ..recipe.rules import value_name
from .choice import OF_ANSWERS, VALID_LOSS, Choice
from .context import RunContext


def begin_choice(run: RunContext, first: int) -> list[Warned]:
    """Begin to judge a run's states, or go on where a training state was saved.

    Args:
        run: The run.
        first: Steps done before.

    Returns:
        What has become of the best state that was.
    """
    output = run.recipe.output
    run.choice = _new_choice(run)
    text = run.metadata.choice
    found = run.choice if text is None else Choice.loads(text)
    if found.judged_by != run.choice.judged_by:
        return []
    run.choice = found
    # The best one of this very step is going to be written once more.
    if output.keep_best is None or found.step in (None, first) or _kept_step(run) == found.step:
        return []
    run.choice = found.forget()
    message = (
        f"the best state so far, that of step {found.step}, is not in {run.paths.best}; the best of those that follow "
        "is going to be kept there"
    )
    return [Warned(message=message)]


def _new_choice(run: RunContext) -> Choice:
    name = run.recipe.output.keep_best
    if name in (None, VALID_LOSS):
        return Choice()
    whole = value_name(name).partition(".")[0]
    is_higher_better = next(metric.is_higher_better for metric in run.answer_metrics if metric.name == whole)
    return Choice(judged_by=f"{OF_ANSWERS}{value_name(name)}", is_higher_better=is_higher_better)


def _kept_step(run: RunContext) -> int | None:
    try:
        step = json.loads((run.paths.best / BEST_FILE).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
