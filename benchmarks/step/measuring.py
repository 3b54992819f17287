"""The sides with their clocks, in turns."""

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import mlx.core as mx

from vlora import Recipe, load_data
from vlora.memory.limits import set_buffer_limits

from .batches import count_tokens, first_of_shapes, prepare
from .ours import Step, VloraStep
from .peer import PeerError, PeerStep

MOST_BATCHES = 4

CALLS_PER_BATCH = 3
"""Timed calls that a batch should get at least: a median of fewer is no protection from noise."""

ROUND_STEPS = 5

SAME_LOSS = 0.01
"""Relative. Both begin with the same model on the same rows, and so at the same loss."""


@attrs.define(eq=False)
class Side:
    """A step with its clock.

    Attributes:
        name: Who takes it.
        step: The step.
        held_bytes: Device memory that this side keeps between steps.
        first_s: Duration of the first call of each batch that has a shape of its own.
        times_s: Durations of each batch's timed calls.
        n_supervised: How many targets of each batch it learned.
        first_loss: Loss of the first call, before any update.
        peak_bytes: Most that this side had in use.
        n_first_traces: Traces before the clock was started.
    """

    name: str
    step: Step
    held_bytes: int = 0
    first_s: dict[int, float] = attrs.field(factory=dict)
    times_s: dict[int, list[float]] = attrs.field(factory=dict)
    n_supervised: dict[int, int] = attrs.field(factory=dict)
    first_loss: float = math.nan
    peak_bytes: int = 0
    n_first_traces: int = 0

    def start(self, numbers: Sequence[int], idle_bytes: int) -> "Side":
        """Pay the first calls.

        Args:
            numbers: The batches to call.
            idle_bytes: Device memory that was in use before this side was opened.
        """
        with self._watched(idle_bytes):
            for number in numbers:
                self.first_s[number] = self._timed(number)
                if math.isnan(self.first_loss):
                    self.first_loss = self._loss()
        gc.collect()
        self.held_bytes = mx.get_active_memory() - idle_bytes
        self.n_first_traces = self.step.n_traces
        return self

    def run(self, untimed: Sequence[int], timed: Sequence[int]) -> None:
        """Take a round of steps, the first ones off the clock."""
        with self._watched(mx.get_active_memory() - self.held_bytes):
            for number in untimed:
                self.step(number)
            for number in timed:
                self.times_s.setdefault(number, []).append(self._timed(number))

    def report(self, n_tokens: Sequence[int]) -> dict[str, Any]:
        """Sum up.

        Args:
            n_tokens: Tokens of each batch, padding left out.

        Raises:
            FloatingPointError: The loss is not finite; such steps need not cost what real ones do.
        """
        loss = self._loss()
        if not (math.isfinite(self.first_loss) and math.isfinite(loss)):
            msg = f"the loss was {self.first_loss} at first and became {loss}"
            raise FloatingPointError(msg)
        # Batch by batch: batches differ in size, and one median would be that of the middle one.
        medians = {number: statistics.median(times) for number, times in self.times_s.items()}
        times = [seconds for durations in self.times_s.values() for seconds in durations]
        seconds = sum(medians.values())
        beyond = (first - medians[number] for number, first in self.first_s.items())
        return {
            "tokens_per_s": sum(n_tokens[number] for number in medians) / seconds,
            "supervised_tokens_per_s": sum(self.n_supervised.values()) / seconds,
            "peak_memory_gb": self.peak_bytes / 1e9,
            "median_ms": 1e3 * statistics.median(times),
            "min_ms": 1e3 * min(times),
            "max_ms": 1e3 * max(times),
            "trace_s": sum(max(0.0, extra) for extra in beyond),
            "n_traces": self.step.n_traces,
            "n_late_traces": self.step.n_traces - self.n_first_traces,
            "n_trainable": self.step.n_trainable,
            "first_loss": self.first_loss,
            "loss": loss,
        }

    def _loss(self) -> float:
        nll, n_supervised = self.step.sums()
        return nll / max(1.0, n_supervised)

    def _timed(self, number: int) -> float:
        began = time.perf_counter()
        self.step(number)
        ended = time.perf_counter()
        self.n_supervised[number] = int(self.step.sums()[1])
        return ended - began

    @contextmanager
    def _watched(self, idle_bytes: int) -> Iterator[None]:
        mx.reset_peak_memory()
        with self.step.turn():
            yield
        self.peak_bytes = max(self.peak_bytes, mx.get_peak_memory() - idle_bytes)


def measure(recipe: Recipe, *, n_steps: int, n_warmup: int, with_peer: bool) -> dict[str, Any]:
    """Measure one recipe.

    Args:
        recipe: The recipe; nothing is written where its output goes.
        n_steps: Timed steps of each side.
        n_warmup: Steps of each side before, besides the first calls.
        with_peer: Measure mlx-vlm's step too.

    Returns:
        What the JSON object holds of a recipe.

    Raises:
        VloraError: It cannot be carried out.
    """
    set_buffer_limits(recipe.memory)
    with tempfile.TemporaryDirectory() as folder:
        # A built-in model is built beside the output, and a benchmark leaves a run's files alone.
        recipe = attrs.evolve(recipe, output=attrs.evolve(recipe.output, path=f"{folder}/run"))
        data = load_data(recipe)
        n_batches = min(MOST_BATCHES, max(1, n_steps // CALLS_PER_BATCH))
        prepared, n_skipped = prepare(recipe, data, n_batches)
        firsts = first_of_shapes(prepared)
        idle_bytes = mx.get_active_memory()
        ours = VloraStep(recipe, data, prepared)
        sides = [Side("vlora", ours).start(firsts, idle_bytes)]
        peer: dict[str, Any] = {}
        if with_peer:
            idle_bytes = mx.get_active_memory()
            try:
                theirs = PeerStep(recipe, data, prepared, ours.adapter)
                sides.append(Side("peer", theirs).start(firsts, idle_bytes))
                peer["notes"] = theirs.notes
            except PeerError as error:
                peer["error"] = str(error)
        take_turns(sides, peer, n_steps=n_steps, n_warmup=n_warmup, n_batches=len(prepared))
    return {
        "model_type": data.files.model_type,
        "n_distinct_steps": len(prepared),
        "n_skipped_rows": n_skipped,
        "batch_rows": [len(batch.rows) for batches in prepared for batch in batches],
        "padded_tokens": [batch.tokens.shape[1] for batches in prepared for batch in batches],
        **compare(sides, peer, [count_tokens(batches) for batches in prepared]),
    }


def take_turns(sides: list[Side], peer: dict[str, Any], *, n_steps: int, n_warmup: int, n_batches: int) -> None:
    """Let the sides take rounds of steps in turn, over the same batches; a failing peer is out."""
    for begin in range(0, n_steps, ROUND_STEPS):
        timed = [step % n_batches for step in range(begin, min(begin + ROUND_STEPS, n_steps))]
        # Later rounds begin off the clock too: the other side has left the caches to itself.
        n_untimed = n_warmup if not begin else min(1, n_warmup)
        for side in list(sides):
            try:
                side.run([step % n_batches for step in range(n_untimed)], timed)
            except PeerError as error:
                peer["error"] = str(error)
                sides.remove(side)


def compare(sides: Sequence[Side], peer: dict[str, Any], n_tokens: Sequence[int]) -> dict[str, Any]:
    """Report on the sides, and say where they did not do the same work."""
    ours, *others = sides
    found: dict[str, Any] = {"vlora": ours.report(n_tokens)}
    if not others:
        return {**found, "peer": peer} if peer else found
    other = others[0]
    try:
        peer |= other.report(n_tokens)
    except FloatingPointError as error:
        return {**found, "peer": {**peer, "error": str(error)}}
    if other.n_supervised != ours.n_supervised:
        counts = [sum(side.n_supervised.values()) for side in (other, ours)]
        peer["notes"].append(f"learns {counts[0]} targets instead of {counts[1]}")
    if not math.isclose(other.first_loss, ours.first_loss, rel_tol=SAME_LOSS):
        losses = [f"{side.first_loss:.4f}" for side in (other, ours)]
        peer["notes"].append(f"begins at a loss of {losses[0]} instead of {losses[1]}")
    if other.step.n_trainable != ours.step.n_trainable:
        counts = [side.step.n_trainable for side in (other, ours)]
        peer["notes"].append(f"trains {counts[0]:,} parameters instead of {counts[1]:,}")
    ratio = found["vlora"]["tokens_per_s"] / peer["tokens_per_s"]
    return {**found, "peer": peer, "ratio": ratio}
