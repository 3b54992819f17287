"""Progress of a run in a notebook: one display that is updated while the run goes on."""

import html
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import attrs

from .bar import format_seconds, write_bar
from .state import ProgressState

WIDTH = 100
"""Characters of the line."""

SECONDS = 0.2
"""Shortest time between two updates: a notebook renders more slowly than a terminal."""


def is_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@attrs.define
class NotebookBar:
    """Shows the progress of a run in a display of its own.

    Attributes:
        state: How far it is.
        clock: Gives seconds.
    """

    state: ProgressState
    clock: Callable[[], float] = time.monotonic
    _shown: float | None = None
    _handle: Any = None

    def update(self, *, is_over: bool = False) -> None:
        """Update the display, unless it was just updated; always at the end."""
        now = self.clock()
        if self._shown is not None and now - self._shown < SECONDS and not is_over:
            return
        self._shown = now
        data = {"text/plain": write_bar(self.state, WIDTH), "text/html": write_html(self.state)}
        if self._handle is None:
            # Present in every notebook's process; vlora does not depend on it.
            self._handle = importlib.import_module("IPython.display").display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def write_html(state: ProgressState) -> str:
    """Return the progress as HTML: a progress element and a line of text."""
    ratio = "" if not state.total else f' max="{state.total}" value="{state.done}"'
    left = "" if state.seconds_left is None else f", {format_seconds(state.seconds_left)} left"
    counted = "" if not state.total else f" {state.done}/{state.total}"
    loss = "" if state.newest is None else f", loss {state.newest.loss:.4f}"
    said = html.escape(f"{state.what}{counted}{left}{loss}")
    return f'<div><progress{ratio} aria-label="{said}" style="width: 20em"></progress> <code>{said}</code></div>'
