"""What takes a run's events besides the screen: none of it ever ends a training."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from ..events import Event
from ..recipe.schema import Recipe
from ..trackers.guard import Consumer, guard


@contextmanager
def open_consumers(recipe: Recipe, warn: Callable[[str], None], go_on: str = "") -> Iterator[Consumer]:
    """Give what takes all events of a run to everything that the recipe asks for.

    Args:
        recipe: What is carried out.
        warn: Is told where trackers show the run and, once, what a consumer failed with; it gets no event after that.
        go_on: The command that goes on with the run.

    Raises:
        VloraError: Something that the recipe asks for is not there.
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
    """Yield the consumers that a recipe asks for, with what they are called in a warning."""
    if recipe.output.report:
        from ..report.run.live import LiveReport

        yield "the report", LiveReport(recipe, go_on)
    if recipe.output.trackers:
        from ..trackers.opening import describe, make_trackings

        for tracking in make_trackings(recipe, say):
            yield describe(tracking.name), tracking
