"""Prints the events of a run as they come: in a notebook with a live bar, in a terminal like the command line."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..arguments import expect_type
from ..events import Event
from .progress.notebook import NotebookBar, is_notebook
from .progress.state import ProgressState
from .screen import Screen
from .view import EventView, open_view


def watch(events: Iterable[Event]) -> Event | None:
    """Print the events of a run as they come.

    Args:
        events: As `vlora.fit` yields them.

    Returns:
        The last one, `Finished` after a whole run; None where there is none.
    """
    expect_type(events, Iterable, "watch", "give the events of a run, watch(fit(recipe))")
    last: Event | None = None
    with _open_view() as view:
        for last in events:
            view.show(last)
    return last


@contextmanager
def _open_view() -> Iterator[EventView]:
    if not is_notebook():
        with open_view(Screen(highlight=False)) as view:
            yield view
        return
    state = ProgressState()
    bar = NotebookBar(state)
    # Lines are plain text: rich would create a separate notebook output for each.
    try:
        yield EventView(Screen(highlight=False, force_jupyter=False, force_terminal=False), state, bar.update)
    finally:
        bar.update(is_over=True)
