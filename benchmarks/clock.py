"""The clock of a side, in the side's own process."""

import time
from typing import Any

import attrs

from .shapes import N_BATCHES
from .sides import Side

WARMUP_STEPS = N_BATCHES + 1
"""After the first step: every batch once, and one more."""


@attrs.define(eq=False)
class Clock:
    """Takes a side's steps and says how long they took.

    Attributes:
        side: The side.
        last_loss: Of the last step.
    """

    side: Side
    last_loss: float = attrs.field(default=float("nan"), init=False)

    def start(self) -> dict[str, Any]:
        """Take the first step, which compiles, then those that warm up; memory is watched from here on."""
        began = time.perf_counter()
        first_loss = self.side.take(1)
        first_s = time.perf_counter() - began
        self.last_loss = self.side.take(WARMUP_STEPS)
        self.side.reset_peak()
        return {
            "first_loss": first_loss,
            "first_step_s": first_s,
            "n_trainable": self.side.n_trainable,
            "weights_bytes": self.side.weights_bytes,
        }

    def time(self, n_steps: int) -> float:
        """Take a round of steps; the seconds of one on average, the device waited for at the round's end."""
        began = time.perf_counter()
        self.last_loss = self.side.take(n_steps)
        return (time.perf_counter() - began) / n_steps

    def rest(self) -> None:
        """Take a step off the clock: another side has had the caches to itself."""
        self.side.take(1)

    def finish(self) -> dict[str, Any]:
        """Say what is known in the end."""
        return {"last_loss": self.last_loss, "peak_bytes": self.side.peak_bytes()}
