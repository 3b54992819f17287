"""The loop: every step reported once, in order and a step late; nothing non-finite in a state; no second state."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map

from tests.checkpoints import FAMILIES
from tests.training import make_trainable
from vlora import Example, TrainLoop, collate, init_state, make_train_step
from vlora.errors import NonFiniteError, SampleError
from vlora.events import StepReport
from vlora.models import describe_family
from vlora.recipe.schema import OPTIMIZERS, WITHOUT_WEIGHT_DECAY
from vlora.train import flat_params
from vlora.train.state import all_finite
from vlora.train.step import TrainStep
from vlora.types import Batch, StepOutput, TrainState

GRIDS = tuple(
    name
    for name, spec in FAMILIES.items()
    if describe_family(str(spec.files["config.json"]["model_type"])).forward.has_grid_tower
)
CheckpointFactory = Callable[[str], Path]


LONG = 200
"""Tokens of a row that fails."""


def make_batch(number: int, n_tokens: int = 3) -> Batch:
    """Make a batch of one row that is known by its number."""
    tokens = np.arange(1, n_tokens + 1, dtype=np.int32)
    nothing = np.zeros(n_tokens, dtype=np.bool_)
    return collate([Example(f"row {number}", tokens, ~nothing, nothing)])


class CountingStep:
    """Counts what it is asked to do; step `bad` has a loss that is not finite."""

    embeds_ahead = False

    def __init__(self, bad: int = -1) -> None:
        self.n_traces = 0
        self.n_begun = 0
        self.bad = bad

    @property
    def backbone(self) -> "CountingStep":
        """Stand for the model, too."""
        return self

    def count_places(self, batch: Batch) -> int:
        """Count those of the batch."""
        return batch.tokens.size

    def accumulate(self, state: TrainState, _: Sequence[Batch], first: Any) -> TrainState:
        """Find no gradient."""
        assert first is None
        return state

    def update(self, state: TrainState, rate: float) -> tuple[TrainState, StepOutput]:
        """Change nothing but the step's number; the loss is half the learning rate."""
        self.n_begun += 1
        self.n_traces = 1
        loss = mx.array(math.nan if self.n_begun == self.bad else rate)
        return state._replace(step=state.step + 1), StepOutput(loss, mx.array(2.0), mx.array(1.0), mx.array(2.0))


def as_step(step: Any) -> TrainStep:
    """Pass what counts for a step."""
    return cast("TrainStep", step)


def start() -> TrainState:
    """Make a state without parameters."""
    return TrainState({}, {}, mx.array(0))


@given(
    st.lists(st.booleans(), max_size=12),
    st.sets(st.integers(1, 12)),
    st.none() | st.integers(1, 12),
)
def test_every_step_is_reported_once(has_rows: list[bool], awaited: set[int], stop: int | None) -> None:
    """Steps come in order, those without rows too; the loop is a step ahead, but for those that are awaited."""
    steps = [[make_batch(number)] if full else [] for number, full in enumerate(has_rows, start=1)]
    step = CountingStep()
    counter = itertools.count(1)
    loop = TrainLoop(as_step(step), start(), float, awaited.__contains__, lambda: next(counter) == stop)
    reported = []
    for number, report in loop.run(iter(steps)):
        assert (report is not None) == has_rows[number - 1]
        if report is not None:
            assert (report.step, report.loss) == (number, number / 2)
        begun = sum(has_rows[: min(number + 1, len(has_rows))])
        if number in awaited or number == stop:
            assert int(loop.state.step) == number
        if number in awaited or number == stop or number + 1 in awaited & set(range(len(has_rows) + 1)):
            begun = sum(has_rows[:number])
        assert step.n_begun == begun
        assert loop.is_stopped == (number == stop)
        reported.append(number)

    assert reported == list(range(1, min(len(steps), stop or len(steps)) + 1))


@pytest.mark.parametrize("awaited", [True, False])
def test_non_finite_step_is_named(awaited: bool) -> None:
    """The steps before it are reported, then the error names it and its rows, at most a step later."""
    step = CountingStep(bad=3)
    loop = TrainLoop(as_step(step), start(), float, lambda _: awaited)
    reported: list[int] = []
    with pytest.raises(NonFiniteError, match=r"step 3: the loss is nan and the gradient norm 1\.0 .*: row 3$"):
        reported.extend(number for number, _ in loop.run([make_batch(number)] for number in itertools.count(1)))

    assert reported == [1, 2]
    assert step.n_begun == (3 if awaited else 4)


def test_what_was_done_is_reported_before_a_bad_row() -> None:
    """A row that fails while a step runs does not swallow that step."""

    def batches() -> Iterator[list[Batch]]:
        yield [make_batch(1)]
        yield [make_batch(2)]
        message = "row 3: broken"
        raise SampleError(message)

    loop = TrainLoop(as_step(CountingStep()), start(), float, lambda _: False)
    reported: list[int] = []
    with pytest.raises(SampleError, match="row 3"):
        reported.extend(number for number, _ in loop.run(batches()))

    assert reported == [1, 2]


def test_trace_and_wait_are_told() -> None:
    """The first step traces; what is waited for rows is part of the step."""
    reports = [
        report
        for _, report in TrainLoop(as_step(CountingStep()), start(), float).run(
            [make_batch(number)] for number in (1, 2)
        )
    ]
    first, second = (report for report in reports if isinstance(report, StepReport))

    assert first.trace_s > 0
    assert second.trace_s == first.trace_s
    assert (first.tokens, first.places, first.n_traces) == (3, 32, 1)
    assert 0 <= first.wait_s <= first.step_s


def test_every_step_has_its_own_time() -> None:
    """A step that the host computed while the next one was not begun yet takes its own time, the last one too."""

    class Slow(CountingStep):
        def update(self, state: TrainState, rate: float) -> tuple[TrainState, StepOutput]:
            time.sleep(0.02)
            return super().update(state, rate)

    counter = itertools.count(1)
    loop = TrainLoop(as_step(Slow()), start(), float, (1).__eq__, lambda: next(counter) == 5)
    began = time.perf_counter()
    taken = [report.step_s for _, report in loop.run([make_batch(1)] for _ in itertools.count()) if report is not None]

    assert len(taken) == 5
    assert min(taken) > 0.019
    assert sum(taken) <= time.perf_counter() - began


@pytest.mark.parametrize(("n_microbatches", "trains_tower"), [(1, False), (2, False), (1, True)])
def test_looking_ahead_changes_no_bit(checkpoint: CheckpointFactory, n_microbatches: int, trains_tower: bool) -> None:
    """What is made ready while a step runs gives the same losses and weights, behind awaited steps too."""

    def train(*, looks_ahead: bool) -> tuple[list[tuple[int, float, float]], TrainState]:
        trainable = make_trainable(checkpoint("qwen2_vl"), model__train_vision=trains_tower, lora__dropout=0.1)
        first, second = (collate(trainable.examples[place : place + 1]) for place in (0, 1))
        step = make_train_step(trainable.backbone, trainable.optimizer, max_grad_norm=1.0)
        loop = TrainLoop(step, trainable.state, lambda _: 1e-2, {3, 4}.__contains__, looks_ahead=looks_ahead)
        rows = [[first, second][:n_microbatches], [second, first][:n_microbatches], []] * 3
        reports = [report for _, report in loop.run(rows) if report is not None]
        return [(report.step, report.loss, report.grad_norm) for report in reports], loop.state

    (reports, state), (wanted, expected) = train(looks_ahead=True), train(looks_ahead=False)

    assert reports == wanted
    assert [report[0] for report in reports] == [1, 2, 4, 5, 7, 8]
    for (name, value), (_, other) in zip(tree_flatten(state), tree_flatten(expected), strict=True):
        assert mx.array_equal(value, other), name


@pytest.mark.parametrize(
    ("name", "compiled"),
    [("adamw", True), *((name, False) for name in OPTIMIZERS)],
)
def test_non_finite_update_changes_nothing(name: str, compiled: bool, checkpoint: CheckpointFactory) -> None:
    """Parameters come back bit for bit, the optimizer stays finite; the step counts: the plan goes on behind it."""
    decay = 0.0 if name in WITHOUT_WEIGHT_DECAY else 0.1
    trainable = make_trainable(checkpoint("llava"), optim__name=name, optim__weight_decay=decay, lora__dropout=0.1)
    batch = collate(trainable.examples)
    factors = dict.fromkeys(sorted(trainable.state.params)[::2], 3.0)
    step = make_train_step(
        trainable.backbone, trainable.optimizer, compiled=compiled, max_grad_norm=1.0, lr_multipliers=factors
    )
    good, _ = step(trainable.state, batch, 1e-2)
    infinite = batch.targets._replace(weights=batch.targets.weights * math.inf)
    bad, output = step(good, batch._replace(targets=infinite), 1e-2)
    after, _ = step(bad, batch, 1e-2)
    mx.eval(good, bad, after, output)

    assert not math.isfinite(float(output.nll_sum))
    assert (int(good.step), int(bad.step)) == (1, 2)
    assert all(bool(mx.isfinite(value).all()) for _, value in tree_flatten(bad.opt_state))
    assert all(bool(mx.array_equal(bad.params[name], value)) for name, value in good.params.items())
    for before, now in ((trainable.state, good), (bad, after)):
        assert any(not mx.array_equal(now.params[name], value) for name, value in before.params.items())
    assert all_finite(after)
    assert float(bad.opt_state["learning_rate"]) == pytest.approx(1e-2)


READING = ("item", "tolist", "__array__", "__int__", "__float__", "__bool__", "__index__", "__iter__")
"""What makes the host wait for an array."""


@pytest.mark.parametrize("family", GRIDS)
def test_no_step_waits_for_the_device(
    family: str, checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where images go through a tower of grids, nothing from the embedding to the update is read back or waited for."""
    trainable = make_trainable(checkpoint(family))
    batches = [collate(trainable.examples), collate(trainable.examples)]
    step = make_train_step(trainable.backbone, trainable.optimizer)
    state, output = step(trainable.state, batches, 1e-2)
    mx.eval(state, output)

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("the host waits for the device")

    def watched(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda value, *args, **named: refuse() if isinstance(value, mx.array) else make(value, *args, **named)

    with monkeypatch.context() as patch:
        for name in READING:
            patch.setattr(mx.array, name, refuse)
        for name in ("array", "asarray"):
            patch.setattr(np, name, watched(getattr(np, name)))
        for name in ("eval", "synchronize"):
            patch.setattr(mx, name, refuse)
        state, output = step(state, batches, 1e-2)

    assert math.isfinite(float(output.nll_sum))


class Deep(nn.Module):
    """Many layers, all of them trained."""

    def __init__(self, n_layers: int, width: int) -> None:
        super().__init__()
        self.layers = [nn.Linear(width, width, bias=False) for _ in range(n_layers)]


class DeepBackbone:
    """As much of a backbone as the step needs."""

    is_traceable = True
    gathers = False
    has_separable_head = False
    layers = ()

    def __init__(self, n_layers: int = 300) -> None:
        self.module = Deep(n_layers, 96)
        mx.eval(self.module.parameters())

    def embed(self, _: Batch) -> tuple[Any, Any]:
        """Need nothing."""
        return {}, {}

    def count_places(self, batch: Batch) -> int:
        """Count those of the batch."""
        return batch.tokens.size

    def embed_param_names(self) -> frozenset[str]:
        """Train nothing of it."""
        return frozenset()

    def overrides(self) -> AbstractContextManager[None]:
        """Correct nothing."""
        return nullcontext()

    def logits(self, *inputs: Any) -> mx.array:
        """Run all layers."""
        hidden = mx.ones((inputs[-1].size, 96))
        for layer in self.module.layers:
            hidden = hidden + 0.01 * layer(hidden)
        return hidden


class FailingBackbone(DeepBackbone):
    """Fails on a long row, where it is told to."""

    def __init__(self, fails_in: str) -> None:
        super().__init__(n_layers=2)
        self.fails_in = fails_in

    def embed(self, batch: Batch) -> tuple[Any, Any]:
        """Fail, or need nothing."""
        self.check("embed", batch.tokens)
        return super().embed(batch)

    def logits(self, *inputs: Any) -> mx.array:
        """Fail, or run all layers."""
        self.check("logits", inputs[0])
        return super().logits(*inputs)

    def check(self, place: str, tokens: Any) -> None:
        """Fail on a long row at the place."""
        if place == self.fails_in and tokens.shape[1] >= LONG:
            message = "row 3: broken"
            raise SampleError(message)


@pytest.mark.parametrize("fails_in", ["rows", "embed", "logits"])
def test_what_fails_ahead_is_raised_at_its_turn(fails_in: str) -> None:
    """Rows that cannot be read, and a microbatch that cannot be embedded or traced: the steps before are kept."""

    def rows() -> Iterator[list[Batch]]:
        yield from ([make_batch(number)] for number in (1, 2))
        if fails_in == "rows":
            message = "row 3: broken"
            raise SampleError(message)
        yield [make_batch(3, n_tokens=LONG)]

    backbone: Any = FailingBackbone(fails_in)
    optimizer = optim.AdamW(1e-3)
    step, state = make_train_step(backbone, optimizer), init_state(backbone, optimizer)
    loop = TrainLoop(step, state, lambda _: 1e-3, lambda _: False, looks_ahead=True)
    del state
    reported: list[int] = []
    with pytest.raises(SampleError, match="row 3: broken"):
        reported.extend(number for number, _ in loop.run(rows()))

    assert reported == [1, 2]
    assert int(loop.state.step) == 2
    assert all_finite(loop.state)


def test_tracing_is_counted_once() -> None:
    """What is done for the next step between two parts of a step is not that step's, nor is waiting for its rows."""

    def rows() -> Iterator[list[Batch]]:
        for number in range(1, 7):
            time.sleep(0.05)
            yield [make_batch(number, n_tokens=LONG * number)]

    backbone: Any = DeepBackbone(n_layers=2)
    optimizer = optim.AdamW(1e-3)
    step, state = make_train_step(backbone, optimizer), init_state(backbone, optimizer)
    loop = TrainLoop(step, state, lambda _: 1e-3, lambda _: False, looks_ahead=True)
    began = time.perf_counter()
    waits = [report.wait_s for _, report in loop.run(rows()) if report is not None]

    assert step.n_traces > 1
    assert 0 < loop.trace_s <= time.perf_counter() - began - sum(waits)


def test_nothing_is_read_ahead_of_a_step_that_is_awaited() -> None:
    """What is done behind it may change what rows follow; behind others the next step's rows are read."""

    def rows() -> Iterator[list[Batch]]:
        for number in itertools.count(1):
            read.append(number)
            yield [make_batch(number)]

    read: list[int] = []
    backbone: Any = DeepBackbone(n_layers=2)
    optimizer = optim.AdamW(1e-3)
    step, state = make_train_step(backbone, optimizer), init_state(backbone, optimizer)
    loop = TrainLoop(step, state, lambda _: 1e-3, {3, 4}.__contains__, looks_ahead=True)
    seen = {number: max(read) for number, _ in itertools.islice(loop.run(rows()), 7)}

    assert seen == {1: 3, 2: 3, 3: 3, 4: 4, 5: 7, 6: 8, 7: 9}


def peak_of_steps(*, holds: bool, looks_ahead: bool = False) -> float:
    """Take full fine-tuning steps: peak memory beyond the state's own, in sizes of the parameters."""
    backbone: Any = DeepBackbone()
    optimizer = optim.AdamW(1e-3, bias_correction=True)
    loop = TrainLoop(
        make_train_step(backbone, optimizer),
        init_state(backbone, optimizer),
        lambda _: 1e-3,
        lambda _: False,
        looks_ahead=looks_ahead,
    )
    loop.state = tree_map(lambda value: value + 0, loop.state)
    mx.eval(loop.state)
    size = sum(value.nbytes for value in loop.state.params.values())
    held = None
    for number, _ in loop.run([make_batch(0)] for _ in range(6)):
        if number == 2:
            mx.reset_peak_memory()
        # What a caller does who keeps the old state until the new one has proved good.
        held = loop.state if holds else None
    del held
    return (mx.get_peak_memory() - mx.get_active_memory()) / size


def test_the_old_state_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the old state during a step pays for it; the loop does not."""
    # Small parameters are packed, which takes a copy of them.
    monkeypatch.setattr(flat_params, "PACKED_SIZE", 0)
    held = peak_of_steps(holds=True)
    # A CPU's thread that is kept waiting frees late, and the peak of that one time says nothing of what is held.
    for looks_ahead in (False, True):
        assert any(peak_of_steps(holds=False, looks_ahead=looks_ahead) < held - 1 for _ in range(5))


@pytest.mark.parametrize("awaited", [True, False])
def test_others_are_held_while_a_step_is_prepared(*, awaited: bool) -> None:
    """From before its rows are drawn until it is handed to the device; never while the caller has control."""
    seen: list[str] = []

    class NotingStep(CountingStep):
        def update(self, state: TrainState, rate: float) -> tuple[TrainState, StepOutput]:
            seen.append("step")
            return super().update(state, rate)

    def rows() -> Iterator[list[Batch]]:
        for number in range(3):
            seen.append("rows")
            yield [make_batch(number)]

    loop = TrainLoop(
        as_step(NotingStep()),
        start(),
        float,
        lambda _: awaited,
        hold=lambda: seen.append("hold"),
        release=lambda: seen.append("release"),
    )
    seen.extend("caller" for _ in loop.run(rows()))

    held = False
    for event in seen:
        held = {"hold": True, "release": False}.get(event, held)
        assert held == (event in ("hold", "rows", "step"))
    assert seen.count("step") == seen.count("caller") == 3


def test_the_older_name_of_run_still_works() -> None:
    """With a warning that names the new one."""
    loop = TrainLoop(as_step(CountingStep()), start(), float)
    with pytest.warns(DeprecationWarning, match=r"TrainLoop\.take is called TrainLoop\.run now"):
        steps = loop.take([[make_batch(1)]])

    assert [number for number, _ in steps] == [1]
