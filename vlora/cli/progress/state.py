"""Progress of a run, computed from its events. Pure, except for the clock that is passed in."""

import time
from collections import deque
from collections.abc import Callable

import attrs

from ...events import Event, Finished, Generated, Reported, Saved, Scored, Started, StepReport, Working

N_RECENT = 64
"""Number of last steps whose mean duration predicts that of the next ones: rows differ in length."""

TRAINING, DONE, STOPPED = "training", "done", "stopped"


@attrs.define
class ProgressState:
    """Progress of a run.

    Attributes:
        what: The current activity.
        done: Completed steps or answers of the activity, where they are counted.
        total: All steps or answers of the activity; None where they are not counted.
        newest: The newest step, once there is one.
        n_steps: Steps of the whole run, as far as it is known.
        clock: Gives seconds.
        began: When the activity began.
    """

    what: str = "starting"
    done: int = 0
    total: int | None = None
    newest: StepReport | None = None
    n_steps: int | None = None
    clock: Callable[[], float] = time.monotonic
    began: float = attrs.field(init=False)
    _seconds: deque[float] = attrs.field(init=False, factory=lambda: deque(maxlen=N_RECENT))
    _traced: float | None = attrs.field(init=False, default=None)
    _n_traces: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        """Begin to count."""
        self.began = self.clock()

    def take(self, event: Event) -> None:
        """Take the next event of the run."""
        if isinstance(event, Working):
            self._begin(event.what, event.total)
        elif isinstance(event, Started):
            self.n_steps, self.done = event.n_steps, event.first_step
        elif isinstance(event, StepReport):
            self._take_step(event)
        elif isinstance(event, Generated):
            self._take_answer(event)
        elif isinstance(event, (Reported, Saved, Scored)) and self.newest is not None:
            # A validation or a round of answers is over.
            self._train()
        elif isinstance(event, Finished):
            self._begin(DONE if event.is_complete else STOPPED, event.n_steps)
            self.done = event.step

    @property
    def elapsed(self) -> float:
        """Seconds since the current activity began."""
        return self.clock() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Remaining seconds of a counted activity at the current speed; None while it is unknown.

        Validations, answers and saving between steps are not included.
        """
        if self.what == TRAINING:
            return self._seconds_of_steps()
        if self.total is None or not self.done or self.what in (DONE, STOPPED):
            return None
        return self.elapsed / self.done * (self.total - self.done)

    def _begin(self, what: str, total: int | None) -> None:
        self.what, self.done, self.total, self.began = what, 0, total, self.clock()

    def _train(self) -> None:
        assert self.newest is not None  # noqa: S101 - asked before
        if self.what != TRAINING:
            self._begin(TRAINING, None)
        self.done, self.total = self.newest.step, self.n_steps

    def _take_step(self, event: StepReport) -> None:
        self.n_steps = event.n_steps or self.n_steps
        self.newest = event
        self._train()
        if event.n_traces > self._n_traces:
            # Time for compiling, which most later steps do not need.
            self._n_traces, self._traced = event.n_traces, event.step_s
        else:
            self._seconds.append(event.step_s)

    def _take_answer(self, event: Generated) -> None:
        what = f"answering {event.when} training"
        if self.what != what:
            self._begin(what, event.total)
        self.done, self.total = event.done, event.total

    def _seconds_of_steps(self) -> float | None:
        if self.total is None:
            return None
        if not self._seconds:
            return None if self._traced is None else self._traced * (self.total - self.done)
        return sum(self._seconds) / len(self._seconds) * (self.total - self.done)
