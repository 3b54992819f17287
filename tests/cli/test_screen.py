"""The screen that commands print on."""

import errno
import io

import pytest

from vlora.cli.screen import Screen
from vlora.system.signals import stop_on_signals


class Closed(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, _: str) -> int:
        """Fail as such a pipe does."""
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_closed_pipe_ends_a_run_as_a_signal_does() -> None:
    """Before the first step it ends at once; afterwards the run is asked to end, and prints no more."""
    with pytest.raises(BrokenPipeError):
        Screen(file=Closed()).print("a")
    with stop_on_signals(print, lambda: None, lambda _: None) as signals:
        screen = Screen(file=Closed())
        screen.when_unread = signals.go_unread
        with pytest.raises(BrokenPipeError):
            screen.print("a")
        assert not signals.is_asked()

        signals.has_stepped = True
        screen = Screen(file=Closed())
        screen.when_unread = signals.go_unread
        screen.print("a")
        screen.print("b")
        assert signals.is_asked()
        assert signals.status == 141
