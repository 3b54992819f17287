"""An event per thread that says that its result is no longer needed, so that it can stop waiting."""

import threading

from .endings import watch_thread

_own = threading.local()


def heed(event: threading.Event) -> None:
    """Set the event of this thread, a worker; the end of the interpreter waits for the thread."""
    watch_thread()
    _own.event = event


def told() -> threading.Event:
    """Return this thread's event; one that is never set if it has none."""
    event: threading.Event = getattr(_own, "event", None) or threading.Event()
    return event
