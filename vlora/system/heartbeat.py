"""The heartbeat of a rank: the process that has started it reads every second whether it computes or waits.

That process also says when all ranks have come so far that they can look for one another.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs

DESCRIPTOR = "VLORA_HEARTBEAT"
"""The variable that names the descriptor to write to."""

START = "VLORA_START"
"""The variable that names the descriptor which has an end as soon as all ranks are there."""

EVERY_S = 1.0
WORKS, WAITS, IS_HERE = b".", b"w", b"h"


@attrs.define(eq=False)
class Heartbeat:
    """A thread that writes one byte a second, for as long as the process lives.

    Attributes:
        descriptor: Where it is written; None for a rank whose heartbeat is not read.
    """

    descriptor: int | None = None
    _n_waiting: int = attrs.field(default=0, init=False)

    def start(self) -> None:
        """Begin, if somebody listens."""
        if self.descriptor is not None:
            threading.Thread(target=self._beat, name="vlora heartbeat", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Say of the time of the context that this rank waits for others, or for its own device."""
        self._n_waiting += 1
        try:
            yield
        finally:
            self._n_waiting -= 1

    def _beat(self) -> None:
        assert self.descriptor is not None  # noqa: S101 - `start` has asked
        never = threading.Event()
        # The launching process was killed, and nothing reads the pipe any more.
        with contextlib.suppress(OSError):
            while True:
                os.write(self.descriptor, WAITS if self._n_waiting else WORKS)
                never.wait(EVERY_S)


def begin(environment: Mapping[str, str]) -> Heartbeat:
    """Begin to give signs of life, if the environment says to whom."""
    found = environment.get(DESCRIPTOR, "")
    heartbeat = Heartbeat(int(found) if found.isdecimal() else None)
    heartbeat.start()
    return heartbeat


def wait_for_others(environment: Mapping[str, str]) -> None:
    """Wait until every rank has come so far, if the process that has started them says when.

    MLX looks for the other ranks for 15 seconds. On a machine with much to do the interpreters of some start that much
    later than others. The process that has started them knows which of them live, and waits for those.
    """
    pulse, start = (environment.get(name, "") for name in (DESCRIPTOR, START))
    if pulse.isdecimal() and start.isdecimal():
        # That process may have ended.
        with contextlib.suppress(OSError):
            os.write(int(pulse), IS_HERE)
            os.read(int(start), 1)
