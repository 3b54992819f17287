"""A benchmark that is told to end takes with it what it has started."""

import signal
from types import FrameType
from typing import NoReturn

ENDING = ("SIGTERM", "SIGHUP")


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP leave this process as Ctrl-C does, past everything that cleans up.

    By default they end it at once, and what it has started goes on in a session of its own and keeps the device's
    memory. What was ignored before is ignored still.
    """
    for name in ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    # Once is enough: a second one would break the cleaning off.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
