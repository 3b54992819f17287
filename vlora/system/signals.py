"""Signals that ask a run to end: the first one after its step, in order, a second one at once."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import attrs

from .pickling import reduce_error

SIGNALLED = 128
"""Exit status of a program that a signal ended, minus the signal's number."""

CLOSED_PIPE = 13
"""SIGPIPE's number, also on systems without that signal."""

GRACE_S = 1.5
"""How long a run that has to end at once may stay in a call that does not return."""

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that ask a run to end; Windows lacks the last one."""


class EndedError(BaseException):
    """A signal ends the run at once; not an `Exception`, since no handler is to go on after it."""

    def __init__(self, number: int) -> None:
        """Name the signal."""
        super().__init__(signal.Signals(number).name)
        self.status = SIGNALLED + number

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made again by what it knows."""
        return reduce_error(self)


@attrs.define(eq=False)
class Signals:
    """The signals received so far.

    Attributes:
        say: Called with a sentence about what happens next.
        hush: Called when the terminal is gone: writing to it would raise from then on.
        has_stepped: Whether a step has been taken: until then there is nothing to save, and the first signal ends the
            run at once.
        number: The first signal; None so far.
    """

    say: Callable[[str], None]
    hush: Callable[[], None]
    has_stepped: bool = False
    number: int | None = None

    def is_asked(self) -> bool:
        """Whether the run is asked to end."""
        return self.number is not None

    @property
    def status(self) -> int:
        """The exit status of a run that has ended early: that of Ctrl-C, if no signal was heard."""
        return SIGNALLED + (signal.SIGINT if self.number is None else self.number)

    def go_unread(self) -> None:
        """Record that the reader of the run's output is gone: it ends as after a signal, that of a closed pipe.

        Raises:
            BrokenPipeError: No step has been taken.
        """
        if not self.has_stepped:
            raise BrokenPipeError
        self.number = CLOSED_PIPE if self.number is None else self.number

    def hear(self, number: int, _: FrameType | None) -> None:
        """Record a signal.

        Raises:
            EndedError: It is the second one, or no step has been taken.
        """
        if self.number is not None or not self.has_stepped:
            raise EndedError(number)
        self.number = number
        if signal.Signals(number).name == "SIGHUP":
            self.hush()
        again = "Ctrl-C again stops" if number == signal.SIGINT else "a second signal ends it"
        self.say(f"stopping after this step and saving; {again} at once")


@attrs.define(eq=False)
class _Watch:
    """Ends the process where a handler cannot: Python runs a handler only after the current call has returned.

    Attributes:
        signals: Where the handlers record them.
        numbers: Of the signals that end a run.
        leave: Called before the process ends.
    """

    signals: Signals
    numbers: frozenset[int]
    leave: Callable[[int], None]
    _is_over: threading.Event = attrs.field(factory=threading.Event, init=False)

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Watch until the end of the context."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            thread = threading.Thread(target=self._watch, args=(ours,), name="vlora signals", daemon=True)
            thread.start()
            try:
                yield
            finally:
                signal.set_wakeup_fd(before)
                self._is_over.set()
                with suppress(BlockingIOError):
                    # A full pipe wakes the thread as well.
                    theirs.send(bytes(1))
                thread.join()

    def _watch(self, heard: socket.socket) -> None:
        n_heard = 0
        while not self._is_over.is_set():
            number = heard.recv(1)[0]
            n_heard += number in self.numbers
            if number in self.numbers and (n_heard > 1 or not self.signals.has_stepped):
                if not self._is_over.wait(GRACE_S):
                    self.leave(number)
                    # Files appear whole or not at all, whenever the process ends.
                    os._exit(SIGNALLED + number)
                return


@contextmanager
def stop_on_signals(
    say: Callable[[str], None], hush: Callable[[], None], leave: Callable[[int], None] = lambda _: None
) -> Iterator[Signals]:
    """Handle Ctrl-C, SIGTERM and SIGHUP within the context, and restore the handlers before it afterwards.

    Args:
        say: As in `Signals`.
        hush: As in `Signals`.
        leave: Called with the signal's number, by a thread, when the process is about to end in the midst of a call.
    """
    signals = Signals(say, hush)
    if threading.current_thread() is not threading.main_thread():
        # Python runs signal handlers in the main thread only, and only that thread may set them.
        yield signals
        return
    previous = {}
    for name in ENDING:
        number = getattr(signal, name, None)
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            # nohup ignores SIGHUP on purpose. Background jobs of a shell ignore Ctrl-C, which may be sent all the same.
            continue
        previous[number] = signal.signal(number, signals.hear)
    try:
        with _Watch(signals, frozenset(previous), leave).keep():
            yield signals
    finally:
        for number, handler in previous.items():
            # None is a handler that Python does not know.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
