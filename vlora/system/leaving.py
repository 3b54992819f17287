"""What threads that work ahead are told: that nobody waits for what they are about, so that they need not wait."""

import threading

_own = threading.local()


def heed(event: threading.Event) -> None:
    """Let this thread be told by an event that nobody waits for it any more."""
    _own.event = event


def told() -> threading.Event:
    """Give the event that tells this thread; one that is never set if nothing does."""
    event: threading.Event = getattr(_own, "event", None) or threading.Event()
    return event
