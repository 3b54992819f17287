"""Time the training step of recipes, and on request mlx-vlm's own step on the same rows beside it.

    python -m benchmarks.step recipes/quickstart.toml recipes/quickstart_qlora.toml --peer

Rows are encoded and collated before the clock starts; embedding them is part of the step, as in training.
Every batch's first call is paid before, and what it costs beyond a step is reported apart, as trace time.
With `--peer` the two take turns, a few steps each, so that a noisy machine disturbs both.

Nothing of vlora is copied here: what is timed are the functions that `fit` calls. Nothing is saved.
The last line of the output is one JSON object.
"""

from vlora import blas  # first: it binds a fast BLAS before MLX multiplies anything

# isort: split
import argparse
import gc
import hashlib
import importlib.metadata
import json
import math
import platform
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attrs
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_vlm.trainer.common.utils import apply_gradient_step, enable_model_gradient_checkpointing
from mlx_vlm.trainer.peft import get_peft_model, load_adapters, unfreeze_modules
from mlx_vlm.trainer.vlm.config import VLMTrainingArgs
from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, vlm_sft_loss

from vlora import (
    Batch,
    Example,
    Recipe,
    VloraError,
    backend,
    collate,
    dump_recipe,
    init_state,
    make_optimizer,
    make_train_step,
    open_data,
    open_model,
    parse_recipe,
)
from vlora.batches import plan_steps, steps_per_epoch
from vlora.errors import RecipeError, SampleError
from vlora.recipe import parse_value
from vlora.schedules import count_steps, learning_rate_at
from vlora.session import Data

NOTHING_MEASURED = 2
MOST_BATCHES = 4
CALLS_PER_BATCH = 3
"""Timed calls that a batch should get at least: a median of fewer is no protection from noise."""
ROUND_STEPS = 5
PEER = "mlx-vlm"
PROBED_ROWS = 3

Microbatches = Sequence[Batch]
"""What one optimizer step takes."""


class PeerError(RuntimeError):
    """mlx-vlm cannot take this recipe's step."""


class Step(Protocol):
    """One side of the comparison: takes real optimizer steps over batches prepared before."""

    n_traces: int
    n_trainable: int

    def __call__(self, number: int) -> None:
        """Take a step over the batches of this number, and wait for the device."""

    def sums(self) -> tuple[float, float]:
        """Return the last step's (summed loss in nats, supervised tokens)."""


class VloraStep:
    """The step as `fit` takes it."""

    def __init__(self, recipe: Recipe, data: Data, prepared: Sequence[Microbatches]) -> None:
        """Open the model.

        Raises:
            VloraError: The model cannot be opened, or not be trained.
        """
        self._backbone, self.adapter = open_model(recipe, data.files)
        if not data.files.family.is_proven:
            rows = [row for batches in prepared for batch in batches for row in batch.rows]
            rows = sorted(rows, key=lambda row: len(row.tokens))[:: max(1, len(rows) // PROBED_ROWS)]
            backend.probe(self._backbone, rows, data.files.model_type)
        optimizer = make_optimizer(recipe.optim)
        self._state = init_state(self._backbone, optimizer)
        self._train_step = make_train_step(
            self._backbone,
            optimizer,
            max_grad_norm=recipe.optim.grad_clip,
            grad_checkpoint=recipe.train.grad_checkpoint,
            seed=recipe.train.seed,
        )
        self._prepared = prepared
        self._rate = partial(
            learning_rate_at, n_steps=count_steps(recipe.train, len(data.train)), optim=recipe.optim
        )
        self._n_done = 0
        self.n_trainable = count_trainable(self._backbone.module)

    @property
    def n_traces(self) -> int:
        """Count the shapes traced so far."""
        return self._train_step.n_traces

    def __call__(self, number: int) -> None:
        """Take a step."""
        self._n_done += 1
        self._state, self._output = self._train_step(
            self._state, self._prepared[number], self._rate(self._n_done)
        )
        mx.eval(self._state, self._output)
        mx.synchronize()

    def sums(self) -> tuple[float, float]:
        """Return the last step's sums."""
        return float(self._output.nll_sum), float(self._output.n_supervised)


class PeerStep:
    """The step of mlx-vlm's trainer: eager, with its own collation, loss, adapter layers and update.

    Model, quantization, rows, supervised tokens, adapted layers, trained parts, optimizer and learning rates are the
    recipe's. What mlx-vlm has no option for stays as it is there; `notes` says so.

    Attributes:
        notes: What it does otherwise than the recipe says.
    """

    n_traces = 0

    def __init__(
        self, recipe: Recipe, data: Data, prepared: Sequence[Microbatches], adapter: Mapping[str, Any]
    ) -> None:
        """Load the model once more, and make it trainable mlx-vlm's way.

        Args:
            recipe: The recipe.
            data: Its opened rows.
            prepared: The batches of each step.
            adapter: The adapter's configuration, as `open_model` returned it.

        Raises:
            PeerError: mlx-vlm cannot do it.
        """
        self.notes: list[str] = []
        with as_peer_error():
            self._module = load_peer(recipe, data, adapter)
            self._optimizer = self._make_optimizer(recipe)
            self._batches = [[collate_peer(batch, recipe, data) for batch in batches] for batches in prepared]
            mx.eval(self._batches)
            # It takes the mean of the microbatches' means, whatever they supervise.
            if recipe.train.gradient_accumulation_steps > 1:
                self.notes.append("weighs microbatches alike")
            objective = partial(vlm_sft_loss, train_on_completions=True)
            self._value_and_grad = nn.value_and_grad(self._module, objective)
            self._module.train()
        self._checkpoints = recipe.train.grad_checkpoint
        self._rate = partial(
            learning_rate_at, n_steps=count_steps(recipe.train, len(data.train)), optim=recipe.optim
        )
        self._n_done = 0
        self.n_trainable = count_trainable(self._module)

    def __call__(self, number: int) -> None:
        """Take a step.

        Raises:
            PeerError: It fails; mlx-vlm cannot batch every family's rows.
        """
        self._n_done += 1
        self._optimizer.learning_rate = self._rate(self._n_done)
        batches = self._batches[number]
        gradients = None
        self._sums = []
        with as_peer_error(), checkpointed_classes(self._module, enabled=self._checkpoints):
            for index, batch in enumerate(batches, start=1):
                loss, metrics, gradients = apply_gradient_step(
                    self._module,
                    self._optimizer,
                    self._value_and_grad,
                    batch,
                    gradients,
                    update=index == len(batches),
                    accumulation_steps=len(batches),
                )
                # What its loop waits for, after every microbatch.
                state = [self._module.state, self._optimizer.state, mx.random.state]
                mx.eval(state, loss, metrics, gradients)
                self._sums.append((loss, metrics["weight"]))
            mx.synchronize()

    def sums(self) -> tuple[float, float]:
        """Return the last step's sums; its losses are means over a microbatch."""
        nll = sum(float(loss) * float(weight) for loss, weight in self._sums)
        return nll, sum(float(weight) for _, weight in self._sums)

    def _make_optimizer(self, recipe: Recipe) -> optim.Optimizer:
        optimizer = make_optimizer(recipe.optim)
        if isinstance(optimizer, optim.Adam):
            # mlx-vlm leaves MLX's default.
            optimizer.bias_correction = False
            self.notes.append("does not correct Adam's bias")
        if recipe.optim.grad_clip is not None:
            self.notes.append("does not clip gradients")
        optimizer.init(self._module.trainable_parameters())
        return optimizer


def load_peer(recipe: Recipe, data: Data, adapter: Mapping[str, Any]) -> nn.Module:
    """Load the recipe's model afresh and unfreeze, with mlx-vlm's functions, what the recipe trains."""
    mx.random.seed(recipe.train.seed)
    backbone, _ = backend.load_backbone(data.files, recipe.model)
    module, language = backbone.module, backbone.language_prefix
    if recipe.model.full_finetune:
        unfreeze_modules(module, [language])
    elif recipe.model.adapter_path is not None:
        load_adapters(module, Path(recipe.model.adapter_path).expanduser())
    else:
        settings = adapter["lora_parameters"]
        get_peft_model(
            module,
            settings["keys"],
            rank=settings["rank"],
            alpha=settings["scale"] * settings["rank"],
            dropout=settings["dropout"],
            verbose=False,
        )
    if recipe.model.train_vision:
        children = module.children().items()
        names = [name for name, child in children if isinstance(child, nn.Module)]
        unfreeze_modules(module, [name for name in names if not language.startswith(name)])
    return module


def collate_peer(batch: Batch, recipe: Recipe, data: Data) -> dict[str, Any]:
    """Put a batch's rows together as mlx-vlm's trainer does, to the padding of its defaults."""
    tokenizer = data.encoder.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    samples = [
        {
            **row.inputs,
            "input_ids": row.tokens,
            "attention_mask": [1] * len(row.tokens),
            "completion_mask": row.supervised,
        }
        for row in batch.rows
    ]
    collated: dict[str, Any] = collate_vlm_batch(
        samples,
        recipe.data.max_seq_length,
        pad_to_multiple=VLMTrainingArgs().pad_to_multiple,
        pad_token_id=0 if pad is None else int(pad),
        image_token_id=data.encoder.image_id,
    )
    return collated


@contextmanager
def as_peer_error() -> Iterator[None]:
    """Turn whatever mlx-vlm raises into a reason: it concerns its own column, not the measurement."""
    try:
        yield
    except Exception as error:  # models raise anything for rows they cannot batch
        raise PeerError(describe(error)) from error


@contextmanager
def checkpointed_classes(module: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Let mlx-vlm checkpoint layers for one step; it patches their classes, which vlora's model shares."""
    if not enabled:
        yield
        return
    own = {type(child): vars(type(child)).get("__call__") for _, child in module.named_modules()}
    try:
        enable_model_gradient_checkpointing(module)
        yield
    finally:
        for cls, call in own.items():
            if call is not None:
                cls.__call__ = call
            elif "__call__" in vars(cls):
                del cls.__call__


@attrs.define(eq=False)
class Side:
    """A step with its clock.

    Attributes:
        name: Who takes it.
        step: The step.
        idle_bytes: Device memory in use that is not this side's.
        held_bytes: Device memory that this side keeps between steps.
        first_s: Duration of the first call of each batch that has a shape of its own.
        times_s: Durations of each batch's timed calls.
        peak_bytes: Most that this side had in use.
        n_first_traces: Traces before the clock was started.
    """

    name: str
    step: Step
    idle_bytes: int
    held_bytes: int = 0
    first_s: dict[int, float] = attrs.field(factory=dict)
    times_s: dict[int, list[float]] = attrs.field(factory=dict)
    peak_bytes: int = 0
    n_first_traces: int = 0

    def start(self, numbers: Sequence[int]) -> None:
        """Pay the first calls."""
        with self._watched():
            for number in numbers:
                self.first_s[number] = self._timed(number)
        gc.collect()
        self.held_bytes = mx.get_active_memory() - self.idle_bytes
        self.n_first_traces = self.step.n_traces

    def run(self, untimed: Sequence[int], timed: Sequence[int]) -> None:
        """Take a round of steps, the first ones off the clock."""
        with self._watched():
            for number in untimed:
                self.step(number)
            for number in timed:
                self.times_s.setdefault(number, []).append(self._timed(number))

    def report(self, n_tokens: Sequence[int]) -> dict[str, Any]:
        """Sum up.

        Args:
            n_tokens: Tokens of each batch, padding left out.

        Raises:
            FloatingPointError: The loss is not finite; such a step need not do the work of a real one.
        """
        nll, n_supervised = self.step.sums()
        loss = nll / max(1.0, n_supervised)
        if not math.isfinite(loss):
            msg = f"the loss became {loss}"
            raise FloatingPointError(msg)
        # Batch by batch, since batches differ in size: a median over all of them would be of the middle one.
        medians = {number: statistics.median(times) for number, times in self.times_s.items()}
        times = [seconds for durations in self.times_s.values() for seconds in durations]
        tokens_per_s = sum(n_tokens[number] for number in medians) / sum(medians.values())
        return {
            "tokens_per_s": tokens_per_s,
            "peak_memory_gb": self.peak_bytes / 1e9,
            "median_ms": 1e3 * statistics.median(times),
            "min_ms": 1e3 * min(times),
            "max_ms": 1e3 * max(times),
            "trace_s": sum(max(0.0, first - medians[number]) for number, first in self.first_s.items()),
            "n_traces": self.step.n_traces,
            "n_late_traces": self.step.n_traces - self.n_first_traces,
            "n_trainable": self.step.n_trainable,
            "loss": loss,
        }

    def _timed(self, number: int) -> float:
        began = time.perf_counter()
        self.step(number)
        return time.perf_counter() - began

    @contextmanager
    def _watched(self) -> Iterator[None]:
        mx.reset_peak_memory()
        yield
        self.peak_bytes = max(self.peak_bytes, mx.get_peak_memory() - self.idle_bytes)


def measure(recipe: Recipe, *, n_steps: int, n_warmup: int, with_peer: bool) -> dict[str, Any]:
    """Measure one recipe.

    Args:
        recipe: The recipe; its output is not written.
        n_steps: Timed steps of each side.
        n_warmup: Steps of each side before, besides the first calls.
        with_peer: Measure mlx-vlm's step too.

    Returns:
        What the JSON object holds of a recipe.

    Raises:
        VloraError: It cannot be carried out.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A built-in model is built beside the output, and a benchmark must leave a run's files alone.
        recipe = attrs.evolve(recipe, output=attrs.evolve(recipe.output, path=f"{folder}/run"))
        data = open_data(recipe)
        n_batches = min(MOST_BATCHES, max(1, n_steps // CALLS_PER_BATCH))
        prepared, n_skipped = prepare(recipe, data, n_batches)
        idle = mx.get_active_memory()
        ours = VloraStep(recipe, data, prepared)
        sides = [Side("vlora", ours, idle)]
        firsts = number_shapes(prepared)
        sides[0].start(firsts)
        reasons: dict[str, str] = {}
        notes: list[str] = []
        if with_peer:
            try:
                peer = PeerStep(recipe, data, prepared, ours.adapter)
                notes = peer.notes
                sides.append(Side(PEER, peer, idle + sides[0].held_bytes))
                sides[1].start(firsts)
                sides[0].idle_bytes += sides[1].held_bytes
            except PeerError as error:
                reasons[PEER] = str(error)
                del sides[1:]
        reasons |= take_turns(sides, n_steps=n_steps, n_warmup=n_warmup, n_batches=len(prepared))
    return {
        "model_type": data.files.model_type,
        "batch_rows": [len(batch.rows) for batch in prepared[0]],
        "batch_tokens": [list(batch.tokens.shape) for batch in prepared[0]],
        "n_batches": len(prepared),
        "n_skipped_rows": n_skipped,
        **compare(sides, prepared, reasons, notes),
    }


def take_turns(sides: list[Side], *, n_steps: int, n_warmup: int, n_batches: int) -> dict[str, str]:
    """Let the sides take rounds of steps in turn, over the same batches.

    Returns:
        Why a side had to give up, by its name; it is out from then on.
    """
    reasons: dict[str, str] = {}
    for begin in range(0, n_steps, ROUND_STEPS):
        timed = [step % n_batches for step in range(begin, min(begin + ROUND_STEPS, n_steps))]
        # Later rounds too begin off the clock: the other side has left the caches to itself.
        untimed = [step % n_batches for step in range(n_warmup if not begin else min(1, n_warmup))]
        for side in list(sides):
            try:
                side.run(untimed, timed)
            except PeerError as error:
                reasons[side.name] = str(error)
                sides.remove(side)
    return reasons


def compare(
    sides: Sequence[Side], prepared: Sequence[Microbatches], reasons: dict[str, str], notes: Sequence[str]
) -> dict[str, Any]:
    """Report on the sides, and check that they did the same work."""
    rows = [[row for batch in batches for row in batch.rows] for batches in prepared]
    n_tokens = [sum(len(row.tokens) for row in step) for step in rows]
    n_supervised = [sum(int(row.supervised[1:].sum()) for row in step) for step in rows]
    share = sum(n_supervised) / sum(n_tokens)
    found: dict[str, Any] = {}
    for side in sides:
        try:
            report = side.report(n_tokens)
        except FloatingPointError as error:
            if side.name != PEER:
                raise
            reasons[PEER] = str(error)
            continue
        report["supervised_tokens_per_s"] = report["tokens_per_s"] * share
        found[side.name] = report
        last = list(side.times_s)[-1] if len(side.times_s) == 1 else None
        counted = side.step.sums()[1]
        if last is not None and counted != n_supervised[last]:
            notes = [*notes, f"{side.name} counted {counted:.0f} of {n_supervised[last]} targets"]
    if PEER in found:
        if found[PEER]["n_trainable"] != found["vlora"]["n_trainable"]:
            notes = [*notes, f"trains {found[PEER]['n_trainable']:,} parameters"]
        ratio = found["vlora"]["tokens_per_s"] / found[PEER]["tokens_per_s"]
        return {"vlora": found["vlora"], "peer": {**found[PEER], "notes": list(notes)}, "ratio": ratio}
    if PEER in reasons:
        return {"vlora": found["vlora"], "peer": {"error": reasons[PEER]}}
    return {"vlora": found["vlora"]}
