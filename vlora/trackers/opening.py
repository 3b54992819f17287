"""The trackers that a recipe names."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs

from ..events import Event
from ..recipe.schema import Recipe
from .guard import Guarded, guard
from .mlflow import Mlflow
from .tensorboard import TensorBoard
from .tracker import Tracker
from .tracking import Tracking
from .trackio import Trackio
from .wandb import Wandb

TRACKERS: dict[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard.open,
    "trackio": Trackio.open,
    "wandb": Wandb.open,
    "mlflow": Mlflow.open,
}
"""Names that `output.trackers` takes, to what imports them."""


@attrs.frozen(eq=False)
class Trackers:
    """All trackers of a run. Called with events, as `fit` yields them, or with numbers of a loop of your own."""

    guarded: tuple[tuple[Tracking, Guarded], ...]

    def __call__(self, event: Event) -> None:
        """Take an event of `fit`."""
        for _, take in self.guarded:
            take(event)

    def log(self, numbers: Mapping[str, Any], step: int) -> None:
        """Take numbers of a step, by their names."""
        for tracking, take in self.guarded:
            take.attempt(lambda tracking=tracking: tracking.log(numbers, step))  # type: ignore[misc]


def make_trackings(recipe: Recipe, say: Callable[[str], None], first_step: int = 0) -> Iterator[Tracking]:
    """Yield what takes events for each tracker that a recipe names; its package is imported when it is entered.

    Args:
        recipe: What is carried out.
        say: Is told where the run can be seen.
        first_step: As for `open_trackers`.
    """
    for name in recipe.output.trackers:
        yield Tracking(recipe, name, TRACKERS[name], say, first_step)


@contextmanager
def open_trackers(
    recipe: Recipe,
    *,
    first_step: int = 0,
    say: Callable[[str], None] = lambda _: None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Trackers]:
    """Give what takes the numbers of a run to the trackers of its recipe (`output.trackers`).

    A tracker never ends a training: what it raises becomes one warning, and it is switched off.

    Args:
        recipe: Names the trackers, the run's folder and its project.
        first_step: Steps done by the run that a loop of your own goes on from, with whose tracker runs it then goes on,
            too; events of `fit` say it themselves.
        say: Is told where the run can be seen.
        warn: Is told what a tracker failed with; without one it is a RuntimeWarning.

    Raises:
        RecipeError: A tracker's package is not there, or cannot log as it is set up.
    """
    with ExitStack() as stack:
        pairs = tuple(
            (tracking, stack.enter_context(guard(describe(tracking.name), tracking, warn or _warn)))
            for tracking in make_trackings(recipe, say, first_step)
        )
        yield Trackers(pairs)


def describe(name: str) -> str:
    """Name a tracker in a sentence."""
    return f"the {name} log"


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
