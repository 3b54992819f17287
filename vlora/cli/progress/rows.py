"""How far a command is with its rows: the progress line of runs on a terminal, elsewhere a line every half minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
from rich.live import Live
from rich.text import Text

from ...events import Working
from ..screen import Screen
from .bar import PER_SECOND, write_bar, write_line
from .state import ProgressState

SECONDS = 30
"""Seconds without a line after which one is printed, where there is no bar."""


@attrs.define
class RowProgress:
    """Shows what a command does, and how many of its rows are done.

    Attributes:
        screen: Where it is shown.
        state: How far it is.
        has_bar: Whether a bar shows the state; lines say it otherwise, and objects where programs read.
        clock: Gives seconds.
    """

    screen: Screen
    state: ProgressState = attrs.field(factory=ProgressState)
    has_bar: bool = False
    clock: Callable[[], float] = time.monotonic
    _said: float = attrs.field(init=False, default=0.0)

    def begin(self, event: Working) -> None:
        """Take note of what comes next."""
        self.state.take(event)
        self._said = self.clock()
        self.screen.tell(event)

    def reach(self, done: int) -> None:
        """Take note of how many rows are done."""
        self.state.done = done
        if self.has_bar or self.clock() - self._said < SECONDS:
            return
        self._said = self.clock()
        left = self.state.seconds_left
        seconds = None if left is None else round(left, 1)
        self.screen.tell("Counted", what=self.state.what, done=done, total=self.state.total, seconds_left=seconds)
        self.screen.print(write_line(self.state), markup=False, soft_wrap=True)


@contextmanager
def open_progress(screen: Screen) -> Iterator[RowProgress]:
    """Show the progress while the `with` lasts: by a bar if everything is printed to a terminal."""
    if not screen.is_terminal or screen.mode != "all":
        yield RowProgress(screen)
        return
    state = ProgressState()

    def draw() -> Text:
        return Text(write_bar(state, screen.width - 1), no_wrap=True, overflow="crop")

    with Live(console=screen, get_renderable=draw, refresh_per_second=PER_SECOND, transient=True):
        yield RowProgress(screen, state, has_bar=True)
