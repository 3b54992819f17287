"""The step after the one in hand, made ready while the device works: its rows, its inputs, the graph of its gradients.

MLX hands a GPU ten command buffers at most before they are needed, so the device has that long to go when the host is
through with a dispatch: less than the host takes for all that comes between two steps. A loop that looks ahead hands a
step over in two parts, the second one half of the backward pass and the update, and divides what is to be done for the
next step between them: before the first part its rows are read and embedded, before the second its graph is built. The
forward pass is no such part: its kernels are short, and the host is never far ahead of the device there.
"""

import time
from collections.abc import Iterator, Sequence

import attrs

from ..memory.limits import naming_shortage
from ..types import Batch, Inputs, TrainState
from .accumulation import Accumulation
from .arguments import as_batches
from .step import TrainStep


@attrs.define(eq=False)
class ReadyStep:
    """A step that has not been taken yet: as much of it as has been made ready.

    Attributes:
        step: Its number.
        batches: Its microbatches; None behind the last step.
        wait_s: How long they were waited for.
        inputs: What the first of them was embedded to.
        total: Their gradients, not computed yet.
        n_traces: How many shapes had been traced before.
        seconds: What the graph of the gradients took to build.
        error: Why it could not be made ready; raised when it is the step's turn.
    """

    step: int
    batches: Sequence[Batch] | None = None
    wait_s: float = 0.0
    inputs: Inputs | None = None
    total: Accumulation | None = None
    n_traces: int = 0
    seconds: float = 0.0
    error: Exception | None = None


def read_step(train_step: TrainStep, steps: Iterator[Sequence[Batch] | Batch], number: int) -> ReadyStep:
    """Read the rows of the next of these steps; without one its microbatches are None.

    Args:
        train_step: What is going to take it.
        steps: The microbatches of each.
        number: Its number.
    """
    asked = time.perf_counter()
    with naming_shortage(f"reading the rows of step {number}"):
        found = next(steps, None)
    # A batch alone is a step's only one.
    batches = None if found is None else as_batches(found)
    return ReadyStep(number, batches, time.perf_counter() - asked, n_traces=train_step.n_traces)


def embed_ahead(train_step: TrainStep, steps: Iterator[Sequence[Batch] | Batch], number: int) -> ReadyStep:
    """Read the next step's rows, and embed its first microbatch; arguments as for `read_step`."""
    try:
        ready = read_step(train_step, steps, number)
        if ready.batches:
            with naming_shortage(f"step {number}", ready.batches[0]):
                ready.inputs = train_step.embed(ready.batches[0])
    except Exception as error:  # noqa: BLE001 - it is raised when it is the step's turn
        return ReadyStep(number, error=error)
    return ready


def build_ahead(ready: ReadyStep, train_step: TrainStep, state: TrainState) -> None:
    """Build the graph of a step's gradients; not of several microbatches, of which the first ones run.

    Args:
        ready: The step, as `embed_ahead` gives it.
        train_step: What is going to take it.
        state: The state that it goes on from, which may not be computed yet.
    """
    batches, began = ready.batches or (), time.perf_counter()
    if len(batches) != 1 or ready.inputs is None:
        return
    try:
        with naming_shortage(f"step {ready.step}", batches[0]):
            ready.total = train_step.accumulate(state, batches, ready.inputs)
    except Exception as error:  # noqa: BLE001 - it is raised when it is the step's turn
        ready.error = error
    ready.inputs, ready.seconds = None, time.perf_counter() - began
