"""What threads that work ahead are told: that their result is no longer needed, so that they need not wait."""

import threading

_own = threading.local()


def heed(event: threading.Event) -> None:
    """Let this thread be told by an event that its result is no longer needed."""
    _own.event = event


def told() -> threading.Event:
    """Give the event that tells this thread; one that is never set if nothing does."""
    event: threading.Event = getattr(_own, "event", None) or threading.Event()
    return event
