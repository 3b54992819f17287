"""Time the training step of recipes, and on request mlx-vlm's own step on the same rows beside it.

    python -m benchmarks.step recipes/quickstart.toml recipes/quickstart_qlora.toml --peer

Rows are encoded and collated before the clock starts; embedding them is part of the step, as in
training. The first call of every shape is paid before, and what it costs beyond a step is reported
apart, as trace time. With `--peer` the two take turns, a few steps each, so that a noisy machine
disturbs both.

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
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from vlora.backend.backbone import to_device
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
SAME_LOSS = 0.01
"""Relative. Both begin with the same model on the same rows, and so at the same loss."""

Microbatches = Sequence[Batch]
"""What one optimizer step takes."""


class PeerError(RuntimeError):
    """mlx-vlm cannot take this recipe's step."""


class Step(Protocol):
    """One side of the comparison: takes real optimizer steps over batches prepared before."""

    @property
    def n_traces(self) -> int:
        """Count the shapes traced so far."""

    @property
    def n_trainable(self) -> int:
        """Count the trainable parameters."""

    def __call__(self, number: int) -> None:
        """Take a step over the batches of this number, and wait for the device."""

    def sums(self) -> tuple[float, float]:
        """Return the last step's (summed loss in nats, supervised tokens)."""

    def turn(self) -> AbstractContextManager[None]:
        """Say what has to hold while this side takes its steps."""


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
            rows.sort(key=lambda row: len(row.tokens))
            # The shortest, the longest and one between, as `fit` takes them.
            places = sorted({0, len(rows) // 2, len(rows) - 1})
            backend.probe(self._backbone, [rows[place] for place in places], data.files.model_type)
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
        self._rate = partial(learning_rate_at, n_steps=count_steps(recipe.train, len(data.train)), optim=recipe.optim)
        self._n_done = 0
        self.n_trainable = count_trainable(self._backbone.module)

    @property
    def n_traces(self) -> int:
        """Count the shapes traced so far."""
        return self._train_step.n_traces

    def __call__(self, number: int) -> None:
        """Take a step."""
        self._n_done += 1
        self._state, self._output = self._train_step(self._state, self._prepared[number], self._rate(self._n_done))
        mx.eval(self._state, self._output)
        mx.synchronize()

    def sums(self) -> tuple[float, float]:
        """Return the last step's sums."""
        return float(self._output.nll_sum), float(self._output.n_supervised)

    def turn(self) -> AbstractContextManager[None]:
        """Need nothing."""
        return nullcontext()


class PeerStep:
    """The step of mlx-vlm's trainer: eager, its own collation, loss, adapter layers and update.

    Model, quantization, rows, supervised tokens, adapted layers, trained parts, optimizer and
    learning rates are the recipe's. What its trainer has no option for stays as it is there;
    `notes` says so.

    Attributes:
        notes: What it does otherwise than the recipe says.
    """

    n_traces = 0

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        prepared: Sequence[Microbatches],
        adapter: Mapping[str, Any],
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
        self._rate = partial(learning_rate_at, n_steps=count_steps(recipe.train, len(data.train)), optim=recipe.optim)
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
        with as_peer_error():
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

    def turn(self) -> AbstractContextManager[None]:
        """Checkpoint layers if the recipe says so."""
        return checkpointed_classes(self._module) if self._checkpoints else nullcontext()

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
    """Load the recipe's model afresh and make trainable what the recipe trains, mlx-vlm's way."""
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
            # Device arrays, as its own dataset gives: host arrays lose a dimension too many.
            **{name: to_device(value) for name, value in row.inputs.items()},
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
    """Turn whatever mlx-vlm raises into a reason; it concerns no other measurement."""
    try:
        yield
    except Exception as error:  # models raise anything for rows they cannot batch
        raise PeerError(describe(error)) from error


@contextmanager
def checkpointed_classes(module: nn.Module) -> Iterator[None]:
    """Let mlx-vlm checkpoint layers for a while: it patches classes, which both models share."""
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
    with tempfile.TemporaryDirectory() as folder:
        # A built-in model is built beside the output, and a benchmark leaves a run's files alone.
        recipe = attrs.evolve(recipe, output=attrs.evolve(recipe.output, path=f"{folder}/run"))
        data = open_data(recipe)
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


def prepare(recipe: Recipe, data: Data, n_batches: int) -> tuple[list[Microbatches], int]:
    """Encode and collate the microbatches of a run's first steps, as `fit` draws them.

    Returns:
        The microbatches of each step, and how many rows were skipped.

    Raises:
        SampleError: A row cannot be learned from and the recipe does not skip it, or none is left.
    """
    train = recipe.train
    per_epoch = steps_per_epoch(len(data.train), train.batch_size, train.gradient_accumulation_steps)
    plan = plan_steps(
        len(data.train),
        train.batch_size,
        accumulation=train.gradient_accumulation_steps,
        seed=train.seed,
        shuffle=recipe.data.shuffle,
        n_steps=min(n_batches, per_epoch),
    )
    prepared: list[Microbatches] = []
    n_skipped = 0
    for numbers_of_step in plan:
        batches = []
        for numbers in numbers_of_step:
            examples = list(encode(recipe, data, numbers))
            n_skipped += len(numbers) - len(examples)
            if examples:
                batches.append(collate(examples, train.batch_size))
        if batches:
            prepared.append(batches)
    if not prepared:
        msg = f"data.path: none of the first {n_skipped} rows can be learned from"
        raise SampleError(msg)
    mx.eval([batch[:-1] for step in prepared for batch in step])
    return prepared, n_skipped


def encode(recipe: Recipe, data: Data, numbers: Sequence[int]) -> Iterator[Example]:
    """Encode rows, passing over bad ones if the recipe does."""
    for number in numbers:
        try:
            yield data.encoder(data.train[number])
        except SampleError:
            if recipe.data.on_bad_row == "raise":
                raise


def first_of_shapes(prepared: Sequence[Microbatches]) -> list[int]:
    """Number the batches that need a trace of their own, of language model or image tower."""
    firsts: dict[Any, int] = {}
    for number, batches in enumerate(prepared):
        shapes = tuple(
            (
                tuple(batch.tokens.shape),
                tuple(sorted(s for row in batch.rows for s in row.image_sizes)),
            )
            for batch in batches
        )
        firsts.setdefault(shapes, number)
    return list(firsts.values())


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


def count_tokens(batches: Microbatches) -> int:
    """Count the tokens of a step, padding left out."""
    return sum(len(row.tokens) for batch in batches for row in batch.rows)


def count_trainable(module: nn.Module) -> int:
    """Count a model's trainable parameters."""
    return sum(int(value.size) for _, value in tree_flatten(module.trainable_parameters()))


def describe(error: Exception) -> str:
    """Say on one line what went wrong, with the error's kind where vlora did not write it."""
    text = " ".join(str(error).split())
    if isinstance(error, (VloraError, FloatingPointError)):
        return text
    return f"{type(error).__name__}: {text}"


def describe_machine() -> dict[str, Any]:
    """Say what the numbers were measured on."""
    device = mx.default_device()
    return {
        "device": str(device),
        "chip": mx.device_info().get("device_name") or platform.processor() or platform.machine(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "mlx": importlib.metadata.version("mlx"),
        "mlx_vlm": importlib.metadata.version("mlx-vlm"),
        "vlora": vlora_version(),
        # None: MLX keeps the BLAS that it came with, which on Linux CPUs is slow.
        "blas": blas.LOADED,
    }


def vlora_version() -> str:
    """Look up the version, also in a checkout that is not installed."""
    try:
        return importlib.metadata.version("vlora")
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def show_machine(machine: Mapping[str, Any]) -> None:
    """Print the header."""
    print(f"vlora {machine['vlora']}, mlx-vlm {machine['mlx_vlm']}, mlx {machine['mlx']}, Python {machine['python']}")
    print(f"{machine['device']}: {machine['chip']}; {machine['os']}")
    print(f"fast BLAS: {machine['blas'] or 'none loaded; MLX uses its own'}")


COLUMNS = (
    ("tokens/s", "tokens_per_s", ",.0f"),
    ("superv./s", "supervised_tokens_per_s", ",.0f"),
    ("peak GB", "peak_memory_gb", ".3f"),
    ("median ms", "median_ms", ",.1f"),
    ("min ms", "min_ms", ",.1f"),
    ("max ms", "max_ms", ",.1f"),
    ("trace s", "trace_s", ".2f"),
    ("traces", "n_traces", "d"),
    ("loss", "loss", ".4f"),
)


def show_result(result: Mapping[str, Any]) -> None:
    """Print what was found of one recipe."""
    print(f"\n{result['recipe']}", flush=True)
    if "error" in result:
        print(f"  cannot be measured: {result['error']}")
        return
    rows, lengths = sorted(set(result["batch_rows"])), sorted(set(result["padded_tokens"]))
    print(
        f"  {result['model_type']}, {result['vlora']['n_trainable']:,} parameters trained; batches "
        f"of {join(rows)} rows padded to {join(lengths)} tokens, from {result['n_distinct_steps']} "
        "of the run's steps"
    )
    print("".join(["  step   ", *(f"{title:>11}" for title, _, _ in COLUMNS)]))
    for name, key in (("vlora", "vlora"), ("mlx-vlm", "peer")):
        side = result.get(key)
        if side is None:
            continue
        if "error" in side:
            print(f"  {name}: cannot be measured: {side['error']}")
            continue
        print("".join([f"  {name:<7}", *(f"{side[key]:>11{kind}}" for _, key, kind in COLUMNS)]))
        if side["n_late_traces"]:
            print(f"  {name}: {side['n_late_traces']} traces fell into timed steps")
    if "ratio" in result:
        notes = f" (which {', '.join(result['peer']['notes'])})" if result["peer"]["notes"] else ""
        print(f"  vlora takes {result['ratio']:.2f} times the tokens/s of mlx-vlm{notes}")


def join(numbers: Sequence[int]) -> str:
    """Write a few numbers, or the range of many."""
    few = 4
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > few else "/".join(map(str, numbers))


def read_recipe(path: Path, sets: Sequence[str]) -> Recipe:
    """Read a recipe file with the overrides of the command line.

    Raises:
        RecipeError: It cannot be read, or something in it is wrong.
    """
    overrides = {}
    for assignment in sets:
        key, found, value = assignment.partition("=")
        if not found:
            msg = f"--set: found {assignment!r}, expected section.key=value"
            raise RecipeError(msg)
        overrides[key.strip()] = parse_value(value.strip())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read the recipe ({error})"
        raise RecipeError(msg) from None
    return parse_recipe(text, overrides)


def at_least(minimum: int, text: str) -> int:
    """Read a whole number of the command line."""
    number = int(text)
    if number < minimum:
        msg = f"found {number}, expected at least {minimum}"
        raise argparse.ArgumentTypeError(msg)
    return number


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description="Time the training step of recipes.")
    parser.add_argument("recipes", nargs="+", type=Path, help="TOML files")
    parser.add_argument("--peer", action="store_true", help="measure mlx-vlm's own step too")
    parser.add_argument("--steps", type=partial(at_least, 1), default=10, metavar="N", help="timed steps (10)")
    parser.add_argument("--warmup", type=partial(at_least, 0), default=3, metavar="N", help="steps before (3)")
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a key of every recipe",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Measure recipes and print what was found.

    Args:
        arguments: As typed after `python -m benchmarks.step`.

    Returns:
        0, or 2 if no recipe could be measured.
    """
    parsed = make_parser().parse_args(arguments)
    machine = describe_machine()
    show_machine(machine)
    results = []
    for path in parsed.recipes:
        result: dict[str, Any] = {"recipe": str(path)}
        try:
            recipe = read_recipe(path, parsed.sets)
            result["recipe_sha256"] = hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()
            result |= measure(recipe, n_steps=parsed.steps, n_warmup=parsed.warmup, with_peer=parsed.peer)
        except Exception as error:  # noqa: BLE001 - one recipe must not cost the others' numbers
            result["error"] = describe(error)
        results.append(result)
        show_result(result)
        # Compiled functions and what they hold form cycles; the next recipe needs the room.
        gc.collect()
        mx.clear_cache()
    summary = {
        "machine": machine,
        "steps": parsed.steps,
        "warmup": parsed.warmup,
        "set": parsed.sets,
        "results": results,
    }
    print()
    print(json.dumps(summary, allow_nan=False))
    return 0 if any("vlora" in result for result in results) else NOTHING_MEASURED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
