"""The training loop: steps are dispatched asynchronously, and a step is read while the next one runs.

The host never waits for the step that it has just dispatched, only for the one before it, so that the device always has
work. The loop waits for a step itself only where its state is needed: to save it, or to validate it.

A loop that looks ahead hands a step over in two parts, between which the next one is made ready (`vlora.train.ahead`).
"""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import mlx.core as mx

from ..cuts import find_cuts
from ..errors import NonFiniteError
from ..events import StepReport
from ..memory.limits import naming_shortage
from ..types import Batch, Cut, RowMark, StepOutput, TrainState
from .accumulation import read_metrics
from .ahead import ReadyStep, build_ahead, embed_ahead, read_step
from .ranks import Ranks
from .step import TrainStep

WAITING = 0.1
"""Share of a step's time from which on the host has waited for the device, and not only read what there was."""


@attrs.frozen(eq=False, kw_only=True)
class _InFlight:
    """A step that the device may still be working on; `output` is None if there was no row to learn from."""

    step: int
    asked: float
    began: float
    output: StepOutput | None = None
    largest: Batch | None = None
    rate: float = 0.0
    sources: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()
    rows: tuple[RowMark, ...] = ()
    n_tokens: int = 0
    n_places: int = 0
    wait_s: float = 0.0


@attrs.define(eq=False)
class TrainLoop:
    """Takes steps, and holds the only reference to the state: a step frees the arrays that it replaces.

    Attributes:
        train_step: As `make_train_step` makes it.
        state: The newest state. A step whose loss or gradient is not finite has changed no parameter in it.
        learning_rate: Of a step, counted from 1.
        needs_sync: Whether the state behind a step is asked for: its report then comes before the next step begins.
        should_stop: Asked after every step; True ends the loop with it.
        looks_ahead: Whether a step is handed over in two parts, and the next one made ready between them: not where its
            state is asked for, nor where steps change what a microbatch is embedded to.
        hold: Called before a step is prepared: other threads should not ask for the interpreter.
        release: Called when the device is about to get the step, and whenever the loop waits or gives up control.
        sums: Summed losses and their terms of all steps so far, those of the run that this one goes on from included.
        ranks: Those that take the steps together. Each has as many steps; they stop behind the same one, whichever of
            them is asked to.
        is_stopped: Whether the loop ends with the step that it has yielded; who iterates may say so, too.
        trace_s: Seconds that the host spent in steps that traced a new shape, compiling included.
    """

    train_step: TrainStep
    state: TrainState
    learning_rate: Callable[[int], float]
    needs_sync: Callable[[int], bool] = lambda _: True
    should_stop: Callable[[], bool] = lambda: False
    looks_ahead: bool = False
    hold: Callable[[], None] = lambda: None
    release: Callable[[], None] = lambda: None
    sums: tuple[float, float] = (0.0, 0.0)
    ranks: Ranks = attrs.field(factory=Ranks)
    is_stopped: bool = attrs.field(default=False, init=False)
    trace_s: float = attrs.field(default=0.0, init=False)
    _began: float = attrs.field(default=0.0, init=False)
    _asked: float = attrs.field(default=0.0, init=False)
    _begun: deque[_InFlight] = attrs.field(factory=deque, init=False)
    _is_asked: bool = attrs.field(default=False, init=False)

    def run(self, microbatches: Iterable[Sequence[Batch] | Batch]) -> Iterator[tuple[int, StepReport | None]]:
        """Take steps of microbatches, or of one batch, while there are any; an empty sequence passes a step over.

        Yields:
            Every step's number, in order, and what it was; None for one that was passed over. While a step that is
            awaited is yielded, `state` is the state behind it; behind others the loop is a step ahead.

        Raises:
            NonFiniteError, OutOfMemoryError: A step has failed; the message names it and its rows.
        """
        steps, step = iter(microbatches), int(self.state.step)
        ready: ReadyStep | None = None
        looks_ahead = self.looks_ahead and self.train_step.embeds_ahead
        self._began = time.perf_counter()
        try:
            while (ready := self._next(ready, steps, step + 1)) is not None:
                step += 1
                needs_sync = self.needs_sync(step)
                if needs_sync and self._begun:
                    self.release()
                    # A CPU works while a step is begun: two steps read one behind the other would share one's time.
                    yield from self.read_begun()
                with naming_shortage(f"step {step}", _largest(ready.batches or ())):
                    begun = self._describe(ready)
                    if ready.total is None and (ready.batches or self.ranks.size > 1):
                        ready.total = self.train_step.accumulate(self.state, ready.batches or (), ready.inputs)
                    ready = self._take(ready, begun, steps if looks_ahead and not needs_sync else None)
                yield from self.read_begun(but=1)
                self.is_stopped = self._is_asked if self.ranks.size > 1 else self.should_stop()
                if self.is_stopped or needs_sync:
                    yield from self.read_begun()
                    # What the caller does meanwhile (validating, saving) is not the next step's time.
                    self._began = time.perf_counter()
                if self.is_stopped:
                    return
            self.release()
            yield from self.read_begun()
        except (Exception, KeyboardInterrupt):
            self.release()
            # The steps before the one that failed, which the device may still have been at.
            yield from self.read_begun()
            raise
        finally:
            self.release()

    def take(self, microbatches: Iterable[Sequence[Batch]]) -> Iterator[tuple[int, StepReport | None]]:
        """Do what `run` does; the older name."""
        message = "TrainLoop.take is called TrainLoop.run now; the old name goes with the release after the next"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.run(microbatches)

    def _next(self, ready: ReadyStep | None, steps: Iterator[Sequence[Batch] | Batch], step: int) -> ReadyStep | None:
        """Give the next step: as it was made ready, or its rows alone; None behind the last one."""
        self._asked = time.perf_counter()
        self.hold()
        if ready is None:
            ready = read_step(self.train_step, steps, step)
        if ready.error is not None:
            raise ready.error
        return None if ready.batches is None else ready

    def _take(
        self, ready: ReadyStep, begun: _InFlight, ahead: Iterator[Sequence[Batch] | Batch] | None
    ) -> ReadyStep | None:
        """Give the device a step, in two parts if the next of those ahead is to be made ready; give that one."""
        following, aside_s = None, 0.0
        # Nothing else holds on to the old state: its arrays are given up as the new ones come to be.
        total, ready.total, ready.inputs = ready.total, None, None
        if total is None:
            self._begun.append(begun)
            self.state = self.state._replace(step=self.state.step + 1)
            return None
        if ahead is not None:
            asked = time.perf_counter()
            following = embed_ahead(self.train_step, ahead, ready.step + 1)
            aside_s = time.perf_counter() - asked
            self.release()
            mx.async_eval(total.halfway)
            self.hold()
        self.state, output = self.train_step.update(total, begun.rate, *self._shared(begun))
        del total
        self._begun.append(attrs.evolve(begun, output=output))
        is_traced = self.train_step.n_traces > ready.n_traces
        if following is not None:
            build_ahead(following, self.train_step, self.state)
            aside_s += following.seconds
        self.release()
        mx.async_eval(self.state, output)
        if is_traced:
            self.trace_s += ready.seconds + time.perf_counter() - begun.began - aside_s
        return following

    def _describe(self, ready: ReadyStep) -> _InFlight:
        began = time.perf_counter()
        batches = [batch for batch in ready.batches or () if not batch.is_stand_in]
        rows = [row for batch in batches for row in batch.rows]
        return _InFlight(
            step=ready.step,
            asked=self._asked,
            began=began,
            largest=_largest(batches),
            rate=self.learning_rate(ready.step) if batches or self.ranks.size > 1 else 0.0,
            sources=tuple(row.source for row in rows),
            cuts=tuple(find_cuts(batches)),
            rows=tuple(row.mark for row in rows if row.mark is not None),
            n_tokens=sum(len(row.tokens) for row in rows),
            n_places=sum(map(self.train_step.backbone.count_places, batches)),
            wait_s=ready.wait_s,
        )

    def _shared(self, begun: _InFlight) -> tuple[tuple[float, ...], ...]:
        """Give what a step adds up over several ranks, as its last argument; nothing for one alone."""
        return () if self.ranks.size == 1 else ((begun.n_tokens, begun.n_places, float(self.should_stop())),)

    def read_begun(self, but: int = 0) -> Iterator[tuple[int, StepReport | None]]:
        """Yield the steps that were begun and not yet yielded, but for the last `but` ones.

        Behind all of them `state` is the state behind the last one that was yielded, unless one of them fails.
        """
        while len(self._begun) > but:
            begun = self._begun[0]
            try:
                report = self._collect(begun)
            except Exception:
                # Those behind it go on from what it failed to compute.
                self._begun.clear()
                raise
            self._begun.popleft()
            yield begun.step, report

    def _collect(self, begun: _InFlight) -> StepReport | None:
        """Wait for a step and read what it measured."""
        if begun.output is None:
            return None
        asked = time.perf_counter()
        with naming_shortage(f"step {begun.step}", begun.largest):
            with self.ranks.watched():
                nll, supervised, norm, n_terms = (float(value) for value in begun.output[:4])
            measured = read_metrics(begun.output.metrics)
            n_tokens, n_places = begun.n_tokens, begun.n_places
            if begun.output.others:
                n_tokens, n_places, n_asked = (int(value) for value in begun.output.others)
                self._is_asked |= n_asked > 0
        if not n_terms:
            # No rank had a row to learn from.
            self._began = self._find_end(asked)
            return None
        if not (math.isfinite(nll) and math.isfinite(norm)):
            raise NonFiniteError(_describe_non_finite(begun, nll / n_terms, norm))
        self.sums = self.sums[0] + nll, self.sums[1] + n_terms
        began, self._began = self._began, self._find_end(asked)
        return StepReport(
            step=begun.step,
            loss=nll / n_terms,
            running_loss=self.sums[0] / self.sums[1],
            learning_rate=begun.rate,
            grad_norm=norm,
            tokens=n_tokens,
            places=n_places,
            supervised_tokens=int(supervised),
            n_terms=n_terms,
            step_s=self._began - began,
            wait_s=begun.wait_s,
            n_traces=self.train_step.n_traces,
            trace_s=self.trace_s,
            cuts=begun.cuts,
            rows=begun.rows,
            measured=measured,
        )

    def _find_end(self, asked: float) -> float:
        """Find the time at which the step that was read had ended.

        A CPU may have been through with it when the next one was begun, at which it then worked; otherwise the last
        step of a run, with which none is begun, would have taken no time and another one that of two.
        """
        now = time.perf_counter()
        if len(self._begun) > 1 and now - asked < WAITING * (now - self._began):
            return max(self._began, self._begun[1].asked)
        return now


def _largest(batches: Sequence[Batch]) -> Batch | None:
    return max(batches, key=lambda batch: batch.tokens.size, default=None)


def _describe_non_finite(begun: _InFlight, loss: float, norm: float) -> str:
    return (
        f"step {begun.step}: the loss is {loss} and the gradient norm {norm} at learning rate {begun.rate:g}; the step "
        "was not kept. Lower optim.learning_rate, set optim.grad_clip, or look at the rows of the batch: "
        f"{', '.join(begun.sources)}"
    )
