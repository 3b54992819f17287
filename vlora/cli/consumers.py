"""Consumers of a run's events besides the screen; an error in one of them never ends the training."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from ..events import Event
from ..recipe.schema import Recipe
from ..trackers.guard import Consumer, guard


@contextmanager
def open_consumers(recipe: Recipe, warn: Callable[[str], None], go_on: str = "") -> Iterator[Consumer]:
    """Return a function that passes each event of a run to the consumers that the recipe asks for.

    Args:
        recipe: What is carried out.
        warn: Called with where trackers show the run, and with the error of a consumer that failed; a consumer that
            failed gets no further events.
        go_on: The command that resumes the run.

    Raises:
        VloraError: A consumer that the recipe asks for is not available.
    """
    with ExitStack() as stack:
        made = _make_consumers(recipe, go_on, warn)
        consumers = [stack.enter_context(guard(name, context, warn)) for name, context in made]

        def consume(event: Event) -> None:
            for take in consumers:
                take(event)

        yield consume


def _make_consumers(
    recipe: Recipe, go_on: str, say: Callable[[str], None]
) -> Iterator[tuple[str, AbstractContextManager[Consumer]]]:
    """Yield the consumers that a recipe asks for, each with its name for warnings."""
    if recipe.output.report:
        from ..report.run.live import LiveReport

        yield "the report", LiveReport(recipe, go_on)
    if recipe.output.trackers:
        from ..trackers.opening import describe, make_trackings

        for tracking in make_trackings(recipe, say):
            yield describe(tracking.name), tracking
