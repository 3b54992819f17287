"""A step that is made ready before its turn: what of it is done, and what goes wrong with it."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import mlx.core as mx
import pytest

from tests.train.test_loop import as_step
from vlora.train.ahead import ReadyStep, build_ahead, embed_ahead, read_step
from vlora.types import Batch, Inputs, TrainState

STATE = TrainState({}, {}, mx.array(0))
BATCHES = cast("Sequence[Batch]", ["first", "second"])


class Step:
    """A step that says what it was asked for."""

    n_traces = 7

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def embed(self, batch: Any) -> Inputs:
        """Name the microbatch."""
        return Inputs(batch, {}, {})

    def accumulate(self, state: TrainState, batches: Any, first: Inputs) -> Any:
        """Give what it was given, or fail."""
        if self.error is not None:
            raise self.error
        return state, batches, first


def ready_of(n_batches: int, step: Step) -> ReadyStep:
    """Read and embed step 4."""
    return embed_ahead(as_step(step), iter([BATCHES[:n_batches]]), 4)


def test_a_step_is_read_embedded_and_built() -> None:
    """One thing after the other; its inputs are given up with what was made of them."""
    step = Step()
    read, ready = read_step(as_step(step), iter([BATCHES]), 4), ready_of(1, step)
    assert (read.step, read.batches, read.n_traces, read.inputs) == (4, BATCHES, 7, None)
    assert ready.inputs is not None
    assert ready.total is None
    found: Any = ready
    expected = STATE, ready.batches, ready.inputs

    build_ahead(ready, as_step(step), STATE)

    assert found.total == expected
    assert (found.inputs, found.error) == (None, None)


@pytest.mark.parametrize("n_batches", [0, 2])
def test_graphs_are_built_of_one_microbatch_only(n_batches: int) -> None:
    """The first of several would run at once; of none there is nothing to build."""
    ready = ready_of(n_batches, Step())
    build_ahead(ready, as_step(Step()), STATE)

    assert ready.total is None
    assert (ready.inputs is not None) == (n_batches > 0)


def test_behind_the_last_step_there_is_none() -> None:
    """Its microbatches are None, and nothing is wrong with that."""
    ready = embed_ahead(as_step(Step()), iter(()), 4)

    assert (ready.batches, ready.error) == (None, None)


def test_what_goes_wrong_is_kept() -> None:
    """It is for the step's own turn, whether rows cannot be read or a graph not built."""

    def fail() -> Iterator[Sequence[Batch]]:
        raise error
        yield BATCHES

    error = ValueError("a row")
    assert embed_ahead(as_step(Step()), fail(), 4).error is error
    failing = Step(error)
    ready = ready_of(1, failing)
    build_ahead(ready, as_step(failing), STATE)

    assert ready.error is error
