"""What takes a run's events besides the screen: none of it ever ends a training."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import attrs

from ..events import Event
from ..recipe.schema import Recipe

Consumer = Callable[[Event], None]
"""Takes the events of a run, one after another."""


@contextmanager
def open_consumers(recipe: Recipe, warn: Callable[[str], None], go_on: str = "") -> Iterator[Consumer]:
    """Give what takes all events of a run to everything that the recipe asks for.

    Args:
        recipe: What is carried out.
        warn: Is told, once, what a consumer failed with; it gets no event after that.
        go_on: The command that goes on with the run.

    Raises:
        VloraError: Something that the recipe asks for is not there.
    """
    with ExitStack() as stack:
        consumers = [
            stack.enter_context(_guard(name, context, warn)) for name, context in _make_consumers(recipe, go_on)
        ]

        def consume(event: Event) -> None:
            for take in consumers:
                take(event)

        yield consume


def _make_consumers(recipe: Recipe, go_on: str) -> Iterator[tuple[str, AbstractContextManager[Consumer]]]:
    """Yield the consumers that a recipe asks for, with what they are called in a warning."""
    if recipe.output.report:
        from ..report.run.live import LiveReport

        yield "the report", LiveReport(recipe, go_on)


@attrs.define
class _Guarded:
    """A consumer that fails at most once."""

    name: str
    take: Consumer
    warn: Callable[[str], None]
    has_failed: bool = False

    def __call__(self, event: Event) -> None:
        if self.has_failed:
            return
        try:
            self.take(event)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the training goes on
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Say what it failed with."""
        if not self.has_failed:
            self.has_failed = True
            found = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self.warn(f"{self.name} of this run is not written any more ({found}); training goes on")


@contextmanager
def _guard(name: str, context: AbstractContextManager[Consumer], warn: Callable[[str], None]) -> Iterator[Consumer]:
    guarded = _Guarded(name, context.__enter__(), warn)
    try:
        yield guarded
    finally:
        # What has failed is closed all the same.
        try:
            context.__exit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - as above
            guarded.fail(error)
