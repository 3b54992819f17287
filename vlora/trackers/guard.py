"""What takes a run's events beside the run itself fails at most once, and ends no training."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import attrs

from ..events import Event
from ..system.redaction import redact

Consumer = Callable[[Event], None]
"""Takes the events of a run, one after another."""


@attrs.define
class Guarded:
    """A consumer that gets nothing any more once it has failed.

    Attributes:
        name: What it is called in the warning.
        take: The consumer.
        warn: Is told what it failed with.
        has_failed: Whether it has.
    """

    name: str
    take: Consumer
    warn: Callable[[str], None]
    has_failed: bool = False

    def __call__(self, event: Event) -> None:
        """Hand an event on."""
        self.attempt(lambda: self.take(event))

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something, unless something has failed before."""
        if self.has_failed:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the training goes on
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Say what it failed with."""
        if not self.has_failed:
            self.has_failed = True
            said = redact(" ".join(str(error).split()))
            found = f"{type(error).__name__}: {said}" if said else type(error).__name__
            self.warn(f"{self.name} of this run is not written any more ({found}); training goes on")


@contextmanager
def guard(name: str, context: AbstractContextManager[Consumer], warn: Callable[[str], None]) -> Iterator[Guarded]:
    """Give a consumer that ends no training.

    Args:
        name: What it is called in the warning.
        context: Gives the consumer; what this raises at its beginning is an error of the recipe's, and is raised.
        warn: Is told, once, what it failed with.
    """
    guarded = Guarded(name, context.__enter__(), warn)
    problem: BaseException | None = None
    try:
        yield guarded
    except BaseException as error:
        problem = error
        raise
    finally:
        # What has failed is closed all the same.
        try:
            context.__exit__(type(problem) if problem else None, problem, problem.__traceback__ if problem else None)
        except Exception as error:  # noqa: BLE001 - as above
            guarded.fail(error)
