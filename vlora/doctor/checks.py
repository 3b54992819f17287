"""Proves vlora on this machine: small checks of what it computes, each against something that computes otherwise.

Nothing is downloaded. What is written lies in a folder that the caller removes, but for what `datasets` keeps of a few
rows. References are NumPy's, in float64, so that neither the device nor MLX is believed. A check that fails does not
keep the others from running.
"""

import functools
import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..build import BUILTIN_MODEL, load_data, load_model
from ..data.collate import collate
from ..data.readers.digits import load_digit_rows
from ..errors import CheckError, RecipeError
from ..memory.limits import GIGA, describe_device, device_kind, memory_limit, memory_limits
from ..models import without_metal_kernels
from ..ops import blas, functional
from ..ops.cpu_exp import has_slow_exponentials
from ..ops.cuda_kernels import on_cuda
from ..ops.quantized import dequantized_weight, frozen_linear
from ..output.checkpoint import read_arrays
from ..output.paths import output_paths
from ..recipe.schema import MemorySection, Recipe, dump_recipe, parse_recipe
from ..run.fit import fit
from ..train.objectives.sft import loss_fn
from ..train.optimizers import make_optimizer
from ..train.state import init_state
from ..train.step import make_eval_step, make_train_step
from ..types import Batch

Numbers = NDArray[np.float64]
Function = Callable[..., mx.array]
Shares = dict[str, float]
"""Type to the largest difference in it, as a share of the reference's size."""

PACKAGES = ("mlx", "mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-vlm", "transformers", "numpy", "vlora")

TYPES = (mx.float32, mx.bfloat16)

TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}
"""Root mean square of the difference to a reference, as a share of the reference's own."""

TF32_TOLERANCE = 3e-3
"""For float32 on GPUs, which multiply matrices in TF32 (CUDA, and the newest Macs) unless MLX_ENABLE_TF32 is 0."""

STEP_TOLERANCES = {"cpu": 1e-3, "metal": 1e-2, "cuda": 1e-2}
"""Between two ways of taking the same step on the same device; what TF32 rounds, a last bit of its input moves."""

RESUME_TOLERANCES = {"cpu": 0.0, "metal": 1e-2, "cuda": 1e-2}
"""Between a run that was killed and one that was not: GPUs add up gradients of embeddings in any order."""

SIZES = ((32, 32), (48, 32), (32, 64), (64, 64), (40, 56))
"""Widths and heights of the images of the run."""

N_STEPS, BATCH_SIZE, SAVE_EVERY = 12, 4, 4

TRAINED: Mapping[str, Any] = {"model.full_finetune": True, "model.train_vision": True}
"""What the run and the compared steps train: everything. On a CPU they share compiled kernels then."""

RUN_LIMIT_S = 150.0
"""What a run in a process of its own may take."""

N_KILLS = 3
"""How often a run is begun that is to be killed, and may end before."""

KEPT_BYTES = 64e6
"""What a run may leave allocated on the device when it returns: MLX's compiled functions hold constants."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What a check found.

    Attributes:
        name: What was checked.
        is_ok: Whether it is as it should be.
        found: Figures, or what is wrong.
        seconds: What it took.
    """

    name: str
    is_ok: bool
    found: str
    seconds: float


def describe_machine() -> dict[str, str]:
    """Say what is being checked: machine, system, versions, device and memory, each by its name."""
    device = describe_device()
    system = platform.platform()
    if sys.platform == "darwin":
        system = f"macOS {platform.mac_ver()[0]} ({system})"
    described = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_memory_bytes() / GIGA:.1f} GB",
        "system": system,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
    }
    for package in PACKAGES:
        try:
            described[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    described["device"] = f"{device.kind}, {device.name}, {device.memory_bytes / GIGA:.2f} GB for arrays"
    described |= {f"device {key}": str(value) for key, value in sorted(mx.device_info().items())}
    described |= {key: value for key, value in sorted(os.environ.items()) if key.startswith(("MLX_", "VLORA_"))}
    return described


def run_checks(folder: Path, checks: Mapping[str, Callable[[Path], str]]) -> Iterator[Outcome]:
    """Run the checks one after the other, all of them whatever they find.

    Args:
        folder: An empty folder for what they write.
        checks: As `find_checks` gives them: name to a function of a folder of its own, which says what it found.

    Yields:
        Each check's outcome, once it is known.
    """
    for number, (name, check) in enumerate(checks.items()):
        own = folder / str(number)
        own.mkdir()
        began = time.perf_counter()
        try:
            found, is_ok = check(own), True
        except CheckError as error:
            found, is_ok = str(error), False
        except Exception as error:  # noqa: BLE001 - whatever MLX, or a missing package, comes up with is what we are after
            found, is_ok = f"{type(error).__name__}: {error}", False
        yield Outcome(name=name, is_ok=is_ok, found=found, seconds=time.perf_counter() - began)


def report(machine: Mapping[str, str], outcomes: Sequence[Outcome], n_checks: int) -> str:
    """Write down what was found, as JSON to be attached to an issue.

    Args:
        machine: As `describe_machine` gives it.
        outcomes: Of the checks so far.
        n_checks: How many there are in all: the file is written after each, should one end the process.
    """
    found = {
        "machine": dict(machine),
        "checks": [attrs.asdict(outcome) for outcome in outcomes],
        "n_checks": n_checks,
        "is_proven": len(outcomes) == n_checks and is_proven(outcomes),
    }
    return json.dumps(found, indent=2) + "\n"


def is_proven(outcomes: Sequence[Outcome]) -> bool:
    """Whether there are outcomes, and all are as they should be."""
    return bool(outcomes) and all(outcome.is_ok for outcome in outcomes)


def find_checks() -> dict[str, Callable[[Path], str]]:
    """Give the checks for the device that MLX computes on, by name."""
    checks: dict[str, Callable[[Path], str]] = {
        "matrix products": check_products,
        "attention": check_attention,
        "attention of few queries": check_few_queries,
        "RMS norm": check_norm,
        "SwiGLU": check_swiglu,
        "rotations": check_rotations,
        "the loss": check_loss,
        "4-bit weights": check_quantized,
    }
    if on_cuda():
        checks["vlora's CUDA kernels"] = check_kernels
    return {
        **checks,
        "compiled and eager steps": check_steps,
        "rows of a batch": check_batches,
        "memory limits": check_limits,
        "worker threads": check_workers,
        "a run in a process of its own": check_run,
        "the BLAS of the CPU": check_blas,
    }


def check_products(_: Path) -> str:
    """Multiply matrices, and carry a gradient through."""
    x, weight, towards = _normal(0, 96, 160), _normal(1, 64, 160), _normal(2, 96, 64)

    def expected(x: Numbers, weight: Numbers, towards: Numbers) -> list[Numbers]:
        return [x @ weight.T, towards @ weight, towards.T @ x]

    return _describe([_compare(lambda x, weight: x @ weight.T, expected, [x, weight], towards)])


def check_attention(_: Path) -> str:
    """Attend without a mask, causally, and with blocks; heads of the widths for which there are kernels, and others."""
    return _describe(_attention(40, width, mask) for width in (64, 128, 32) for mask in (None, "causal", "blocks"))


def check_few_queries(_: Path) -> str:
    """Attend with so few queries that GPUs take other kernels."""
    return _describe(_attention(5, 64, mask) for mask in (None, "causal"))


def check_norm(_: Path) -> str:
    """Normalize rows, narrow and wide, by a frozen weight."""

    def expected(weight: Numbers) -> Callable[..., list[Numbers]]:
        def compute(x: Numbers, towards: Numbers) -> list[Numbers]:
            factor = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)
            scaled = towards * weight
            along = np.mean(x * scaled, axis=-1, keepdims=True)
            return [x * factor * weight, factor * scaled - x * factor**3 * along]

        return compute

    found = []
    for width in (128, 2048):
        weight = 1 + 0.1 * _normal(1, width)
        for dtype in TYPES:
            rounded = _rounded(weight, dtype)
            frozen = mx.array(rounded.astype(np.float32)).astype(dtype)
            found.append(
                _compare(
                    lambda x, frozen=frozen: functional.rms_norm(x, frozen, 1e-6),
                    expected(rounded),
                    [_normal(0, 48, width)],
                    _normal(2, 48, width),
                    types=(dtype,),
                )
            )
    return _describe(found)


def check_swiglu(_: Path) -> str:
    """Let a gate through."""

    def expected(gate: Numbers, up: Numbers, towards: Numbers) -> list[Numbers]:
        sigmoid = 1 / (1 + np.exp(-gate))
        return [
            gate * sigmoid * up,
            towards * up * sigmoid * (1 + gate * (1 - sigmoid)),
            towards * gate * sigmoid,
        ]

    arrays = [4 * _normal(0, 48, 256), _normal(1, 48, 256)]
    return _describe([_compare(functional.swiglu, expected, arrays, _normal(2, 48, 256))])


def check_rotations(_: Path) -> str:
    """Rotate the halves of heads."""
    angles = np.arange(24)[None, :, None, None, None] * 10.0 ** -np.arange(0, 4, 0.125)
    cosines = np.concatenate([np.cos(angles)] * 2, axis=-2)
    sines = np.concatenate([-np.sin(angles), np.sin(angles)], axis=-2)

    def turned(x: Numbers, sines: Numbers) -> Numbers:
        halves = x.reshape(*x.shape[:-1], 2, -1)
        both: Numbers = halves * cosines + halves[..., ::-1, :] * sines
        return both.reshape(x.shape)

    def rotate(x: mx.array) -> mx.array:
        return functional.rotate(x, _array(cosines, mx.float32), _array(sines, mx.float32))

    shape = (2, 24, 3, 64)
    arrays, towards = [_normal(0, *shape)], _normal(1, *shape)
    return _describe(
        [_compare(rotate, lambda x, towards: [turned(x, sines), turned(towards, -sines)], arrays, towards)]
    )


def check_loss(_: Path) -> str:
    """Sum negative log-likelihoods."""
    targets, weights = np.arange(48) * 7 % 512, np.arange(48) % 3 / 2

    def expected(logits: Numbers, towards: Numbers) -> list[Numbers]:
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = powers / powers.sum(axis=-1, keepdims=True)
        losses = -np.log(shares[np.arange(48), targets])
        wanted = np.eye(512)[targets]
        return [np.asarray(np.sum(losses * weights)), towards * weights[:, None] * (shares - wanted)]

    def loss(logits: mx.array) -> mx.array:
        return loss_fn(logits, mx.array(targets.astype(np.int32)), _array(weights, mx.float32))[0]

    return _describe([_compare(loss, expected, [3 * _normal(0, 48, 512)], np.ones(()))])


def check_quantized(_: Path) -> str:
    """Unpack 4-bit weights, and multiply with them in both ways: packed for few rows, unpacked for many."""
    linear = nn.Linear(256, 128, bias=False)
    linear.weight = _array(_normal(0, 128, 256) / 16, mx.float32)
    packed = nn.QuantizedLinear.from_linear(linear, group_size=64, bits=4)
    words = np.array(packed.weight)
    codes = (words[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(128, 4, 64)
    scales, biases = (np.array(packed[name]).astype(np.float64)[..., None] for name in ("scales", "biases"))
    weight = (codes * scales + biases).reshape(128, 256)
    found = [{"unpacked": _difference("the unpacked weights", dequantized_weight(packed), weight, 1e-5)}]
    found += [
        _compare(
            lambda x: frozen_linear(packed, x),
            lambda x, towards: [x @ weight.T, towards @ weight],
            [_normal(1, n_rows, 256)],
            _normal(2, n_rows, 128),
        )
        for n_rows in (8, 256)
    ]
    return _describe(found)


def check_kernels(_: Path) -> str:
    """Compare vlora's kernels for CUDA with MLX's own way."""
    targets = mx.arange(64)
    found: list[Shares] = []
    for dtype in TYPES:
        x, up, logits = (_array(_normal(seed, 64, 512), dtype) for seed in range(3))
        weight = _array(1 + 0.1 * _normal(3, 512), dtype)
        packed = nn.QuantizedLinear(512, 512, bias=False, group_size=64, bits=4)
        packed.scales, packed.biases = packed.scales.astype(dtype), packed.biases.astype(dtype)
        norm = functools.partial(functional.rms_norm, weight=weight, eps=1e-6)
        fast = functools.partial(mx.fast.rms_norm, weight=weight, eps=1e-6)
        pairs: list[tuple[str, Function, Function, list[mx.array]]] = [
            ("norm", norm, fast, [x]),
            ("gate", functional.swiglu, lambda gate, up: nn.silu(gate) * up, [x, up]),
            (
                "loss",
                lambda logits: loss_fn(logits, targets, mx.ones(64))[0],
                lambda logits: nn.losses.cross_entropy(logits.astype(mx.float32), targets).sum(),
                [logits],
            ),
        ]
        name = _name(dtype)
        for part, own, other, given in pairs:
            towards = mx.ones_like(own(*given))
            made = _forward_and_back(own, given, towards), _forward_and_back(other, given, towards)
            for one, two in zip(*made, strict=True):
                found.append({name: _difference(f"{part} in {name}", one, _numbers(two), TOLERANCES[name])})
        unpacked = mx.dequantize(packed.weight, packed.scales, packed.biases, group_size=64, bits=4)
        share = _difference(f"unpacked in {name}", dequantized_weight(packed), _numbers(unpacked), TOLERANCES[name])
        found.append({name: share})
    return _describe(found)


def check_steps(folder: Path) -> str:
    """Take steps compiled, and the same ones eagerly: one loss, one norm, and the same running means of gradients."""
    recipe = _recipe(folder, TRAINED)
    taken = []
    for compiled in (True, False):
        batch, backbone = _open(recipe, range(BATCH_SIZE))
        optimizer = make_optimizer(recipe.optim)
        state = init_state(backbone, optimizer)
        step = make_train_step(backbone, optimizer, compiled=compiled)
        for _ in range(2):
            state, output = step(state, batch, 1e-3)
            mx.eval(state, output)
        taken.append((output._asdict(), dict(tree_flatten(state.opt_state))))
    (compiled_sums, compiled_state), (sums, eager_state) = taken
    tolerance = STEP_TOLERANCES[device_kind()]
    shares = [
        _difference(f"{name} after two steps", compiled_sums[name], _numbers(value), tolerance)
        for name, value in sums.items()
    ]
    share = _overall(compiled_state, eager_state)
    if not share <= tolerance:
        msg = f"the optimizer after two steps: off by {share:.1e} of its size, {tolerance:.0e} at most is rounding"
        raise CheckError(msg)
    loss = float(sums["nll_sum"] / sums["n_supervised"])
    return f"loss {loss:.4f}; {_describe([{'loss and norm': max(shares), 'state': share}])}"


def check_batches(folder: Path) -> str:
    """Sum the losses of rows with images of several sizes, together and one by one."""
    recipe = _recipe(folder, {"lora.rank": 4})
    numbers = range(len(SIZES))
    batch, backbone = _open(recipe, numbers)
    state = init_state(backbone, make_optimizer(recipe.optim))
    step = make_eval_step(backbone, compiled=False)
    together = step(state, batch)[0]
    apart = sum((_numbers(step(state, _encode(recipe, [number]))[0]) for number in numbers), np.zeros(()))
    return _describe(
        [{"together": _difference("the summed loss of a batch", together, apart, STEP_TOLERANCES[device_kind()])}]
    )


def check_limits(_: Path) -> str:
    """Set memory limits as a recipe does, and see that they hold and go."""
    before, cache = memory_limit(), _cache_limit()
    wired = 1.0 if device_kind() == "metal" else None
    with memory_limits(MemorySection(limit_gb=2.0, cache_gb=0.5, wired_gb=wired)):
        within = memory_limit(), _cache_limit()
        mx.eval(mx.ones((1024, 1024)) @ mx.ones((1024, 1024)))
    if within != (2 * 10**9, 5 * 10**8):
        msg = f"limits of 2 GB and a cache of 0.5 GB were set, but {within[0]:,} and {within[1]:,} bytes hold"
        raise CheckError(msg)
    if (memory_limit(), _cache_limit()) != (before, cache):
        msg = f"after a run {memory_limit():,} and {_cache_limit():,} bytes hold, where {before:,} and {cache:,} did"
        raise CheckError(msg)
    wires = "" if wired is None else ", 1 GB wired"
    return f"2 GB and a cache of 0.5 GB set{wires}; back to {before / GIGA:.2f} and {cache / GIGA:.2f} GB"


def check_workers(folder: Path) -> str:
    """Run a recipe in this process, rows encoded in threads: the device is the same, and nothing is left behind."""
    recipe = _recipe(folder, {"train.iters": 3, "data.workers": 2, "lora.rank": 4})
    mx.clear_cache()
    before, threads, held = mx.default_device(), set(threading.enumerate()), mx.get_active_memory()
    devices = {str(mx.default_device()) for _ in fit(recipe)}
    if devices != {str(before)} or mx.default_device() != before:
        msg = f"the run began on {before}, and was found on {', '.join(sorted(devices))}, then {mx.default_device()}"
        raise CheckError(msg)
    left = [thread.name for thread in threading.enumerate() if thread not in threads]
    if left:
        msg = f"threads are left: {', '.join(left)}"
        raise CheckError(msg)
    gc.collect()
    mx.clear_cache()
    kept = mx.get_active_memory() - held
    if kept > KEPT_BYTES:
        msg = f"{kept / 1e6:.0f} MB are still allocated on the device after the run"
        raise CheckError(msg)
    return f"on {before} throughout; {max(kept, 0) / 1e6:.1f} MB allocated afterwards, no thread left"


def check_run(folder: Path) -> str:
    """Run a recipe as a user does, in a process of its own; and once more, killed on the way and gone on with."""
    keys = {
        **TRAINED,
        "train.iters": N_STEPS,
        "train.steps_per_save": SAVE_EVERY,
        "data.workers": 2,
    }
    recipe = _recipe(folder, {**keys, "output.path": str(folder / "whole" / "model")})
    began = time.perf_counter()
    _run(recipe, folder / "whole.toml")
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in output_paths(recipe).metrics.read_text(encoding="utf-8").splitlines()]
    device = lines[0].get("device")
    if device != device_kind():
        msg = f"the run's metrics.jsonl says that it ran on {device!r}, where this process is on {device_kind()!r}"
        raise CheckError(msg)
    losses = [line["loss"] for line in lines if "loss" in line]
    first, last = np.mean(losses[:3]), np.mean(losses[-3:])
    if len(losses) != N_STEPS or not last < first:
        msg = f"{len(losses)} of {N_STEPS} steps were reported, and the loss went from {first:.4f} to {last:.4f}"
        raise CheckError(msg)
    resumed = _killed_and_resumed(folder, keys)
    whole, other = (read_arrays(output_paths(one).state) for one in (recipe, resumed))
    if set(whole) != set(other):
        msg = f"the training state of a resumed run lacks, or has besides, {', '.join(sorted(set(whole) ^ set(other)))}"
        raise CheckError(msg)
    is_equal = all(mx.array_equal(value, other[name]).item() for name, value in whole.items())
    apart = _overall(other, whole)
    if not is_equal and not apart <= RESUME_TOLERANCES[device_kind()]:
        msg = f"a run that was killed and resumed differs from one that was not, by {apart:.1e} of its state's size"
        raise CheckError(msg)
    if not is_equal and device_kind() == "cpu":
        msg = f"a run that was killed and resumed is not bit for bit one that was not ({apart:.1e} apart)"
        raise CheckError(msg)
    equal = "bit for bit equal" if is_equal else f"apart by {apart:.1e} of its state's size"
    return f"{N_STEPS} steps on {device}, loss {first:.2f} to {last:.2f}, {seconds:.0f} s; killed and resumed: {equal}"


def check_blas(_: Path) -> str:
    """Time a matrix product on the CPU, and say what library takes it."""
    x = mx.random.normal((1024, 1024), key=mx.random.key(0), stream=mx.cpu)
    mx.eval(x)
    seconds = []
    for _attempt in range(3):
        began = time.perf_counter()
        mx.eval(mx.matmul(x, x, stream=mx.cpu))
        seconds.append(time.perf_counter() - began)
    library = blas.LOADED or ("Accelerate" if sys.platform == "darwin" else "MLX's own choice")
    slow = "one by one" if has_slow_exponentials() else "by MLX"
    return f"{Path(library).name}, {2 * 1024**3 / min(seconds) / 1e9:.0f} GFLOP/s; exponentials {slow}"


def _attention(n_queries: int, width: int, mask: str | None) -> Shares:
    """Compare attention as models call it, three heads to a group of keys, with its definition."""
    n_heads, n_groups, n_keys = 6, 2, 40
    place = np.arange(n_keys)
    sees = np.ones((n_queries, n_keys), dtype=bool)
    if mask is not None:
        sees = place[None, :] <= place[n_keys - n_queries :, None]
    if mask == "blocks":
        sees &= (place[n_keys - n_queries :, None] // 13) == (place[None, :] // 13)
    given = mx.array(sees) if mask == "blocks" else mask
    scale = width**-0.5

    def expected(queries: Numbers, keys: Numbers, values: Numbers, towards: Numbers) -> list[Numbers]:
        keys, values = (np.repeat(x, n_heads // n_groups, axis=1) for x in (keys, values))
        scores = np.where(sees, queries @ keys.swapaxes(-1, -2) * scale, -np.inf)
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares = powers / powers.sum(axis=-1, keepdims=True)
        mixed = shares @ values
        of_shares = towards @ values.swapaxes(-1, -2)
        of_scores = shares * (of_shares - np.sum(of_shares * shares, axis=-1, keepdims=True)) * scale
        of_keys, of_values = of_scores.swapaxes(-1, -2) @ queries, shares.swapaxes(-1, -2) @ towards
        grouped = (x.reshape(1, n_groups, -1, n_keys, width).sum(axis=2) for x in (of_keys, of_values))
        return [mixed, of_scores @ keys, *grouped]

    def attend(*inputs: mx.array) -> mx.array:
        with without_metal_kernels(nn.Module()):
            attended: mx.array = mx.fast.scaled_dot_product_attention(*inputs, scale=scale, mask=given)
            return attended

    arrays = [
        _normal(seed, 1, heads, n, width)
        for seed, (heads, n) in enumerate([(n_heads, n_queries), (n_groups, n_keys), (n_groups, n_keys)])
    ]
    towards = _normal(3, 1, n_heads, n_queries, width)
    found = _compare(attend, expected, arrays, towards)
    if has_slow_exponentials():

        def attend_in_passes(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
            return functional.attend(queries, keys, values, scale, given)

        # What models get in its place here.
        own = _compare(attend_in_passes, expected, arrays, towards, types=(mx.float32,))
        found["float32"] = max(found["float32"], own["float32"])
    return found


def _compare(
    function: Function,
    expected: Callable[..., list[Numbers]],
    arrays: Sequence[Numbers],
    towards: Numbers,
    *,
    types: Sequence[mx.Dtype] = TYPES,
) -> Shares:
    """Compare a function and its gradients with a reference, in each type; the reference is given rounded numbers."""
    found = {}
    for dtype in types:
        name = _name(dtype)
        tolerance = TOLERANCES[name]
        if name == "float32" and device_kind() != "cpu" and os.environ.get("MLX_ENABLE_TF32", "1") != "0":
            tolerance = TF32_TOLERANCE
        given = [_array(x, dtype) for x in arrays]
        cotangent = _array(towards, function(*given).dtype)
        references = expected(*(_numbers(x) for x in given), _numbers(cotangent))
        made = _forward_and_back(function, given, cotangent)
        found[name] = max(
            _difference(f"{f'the gradient of input {place}' if place else 'the result'} in {name}", *pair, tolerance)
            for place, pair in enumerate(zip(made, references, strict=True))
        )
    return found


def _forward_and_back(function: Function, given: list[mx.array], cotangent: mx.array) -> list[mx.array]:
    results, gradients_ = mx.vjp(function, given, [cotangent])
    mx.eval(results, gradients_)
    return [*results, *gradients_]


def _difference(name: str, found: mx.array, expected: Numbers, tolerance: float) -> float:
    """Find how far an array is from what is expected, as a share of its size.

    Raises:
        CheckError: It is too far, or of another shape.
    """
    if tuple(found.shape) != np.shape(expected):
        msg = f"{name}: found the shape {tuple(found.shape)}, expected {np.shape(expected)}"
        raise CheckError(msg)
    share = _share(_numbers(found), np.asarray(expected, dtype=np.float64))
    if not share <= tolerance:
        msg = f"{name}: off by {share:.1e} of its size, {tolerance:.0e} at most is rounding"
        raise CheckError(msg)
    return share


def _share(found: Numbers, expected: Numbers) -> float:
    if not found.size:
        return 0.0
    size = float(np.sqrt(np.mean(np.square(expected))))
    return float(np.sqrt(np.mean(np.square(found - expected)))) / max(size, 1e-6)


def _overall(found: Mapping[str, mx.array], expected: Mapping[str, mx.array]) -> float:
    """Find how far arrays are from others of the same names, all of them together: some are little but rounding.

    A bias of keys has a gradient that is zero but for rounding, and Adam makes steps of it like any other.
    """
    squares = sum(float(np.sum(np.square(_numbers(found[name]) - _numbers(value)))) for name, value in expected.items())
    size = sum(float(np.sum(np.square(_numbers(value)))) for value in expected.values())
    return float(np.sqrt(squares / max(size, 1e-12)))


def _describe(found: Iterable[Shares]) -> str:
    """Say how large the largest differences are."""
    largest: Shares = {}
    for shares in found:
        largest |= {name: max(share, largest.get(name, 0.0)) for name, share in shares.items()}
    return "off by " + ", ".join(f"{share:.1e} ({name})" for name, share in largest.items())


def _normal(seed: int, *shape: int) -> Numbers:
    return np.random.default_rng(seed).standard_normal(shape)


def _array(x: Numbers, dtype: mx.Dtype) -> mx.array:
    # MLX has no float64 on a GPU.
    return mx.array(np.asarray(x, dtype=np.float32)).astype(dtype)


def _numbers(x: mx.array) -> Numbers:
    # NumPy has no bfloat16.
    return np.array(x.astype(mx.float32)).astype(np.float64)


def _rounded(x: Numbers, dtype: mx.Dtype) -> Numbers:
    return _numbers(_array(x, dtype))


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def _cache_limit() -> int:
    limit = mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    return int(limit)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _recipe(folder: Path, keys: Mapping[str, Any]) -> Recipe:
    """Make a recipe of the tiny model and of rows that are written into a folder, with a LoRA unless it says else."""
    return parse_recipe(
        "",
        {
            "model.path": BUILTIN_MODEL,
            "data.path": str(_write_rows(folder)),
            "data.train_on_completions": True,
            "optim.name": "adamw",
            "optim.learning_rate": 1e-3,
            "train.batch_size": BATCH_SIZE,
            "train.steps_per_report": 1,
            "features.path": str(folder / "features"),
            "output.path": str(folder / "run" / "adapters.safetensors"),
            **keys,
        },
    )


def _write_rows(folder: Path) -> Path:
    """Write questions about digits, images of several sizes beside them; nothing twice."""
    file = folder / "rows.jsonl"
    if file.is_file():
        return file
    lines = []
    for number, row in enumerate(_find_rows()[: N_STEPS * BATCH_SIZE]):
        name = f"{number:03d}.png"
        row["image"].resize(SIZES[number % len(SIZES)]).save(folder / name)
        lines.append(json.dumps({**row, "image": name}))
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def _find_rows() -> list[dict[str, Any]]:
    try:
        return load_digit_rows("train", None)
    except RecipeError:
        # Without scikit-learn digits are drawn.
        return [_draw(number) for number in range(N_STEPS * BATCH_SIZE)]


def _draw(number: int) -> dict[str, Any]:
    image = Image.new("RGB", (32, 32))
    ImageDraw.Draw(image).text((4 + number % 5, number % 4), str(number % 10), fill="white", font_size=24)
    return {"image": image, "question": "Which digit is this?", "answer": str(number % 10)}


def _open(recipe: Recipe, numbers: Sequence[int]) -> tuple[Batch, Any]:
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    return _encode(recipe, numbers), backbone


def _encode(recipe: Recipe, numbers: Sequence[int]) -> Batch:
    data = load_data(recipe)
    samples = [data.train[number] for number in numbers]
    return collate([data.encoder(sample) for sample in samples], len(samples))


def _start(recipe: Recipe, file: Path, *options: str) -> subprocess.Popen[str]:
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    # No network: the model is built here, and the rows are files.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(file.parent / "datasets")}
    command = [sys.executable, "-m", "vlora", str(file), *options]
    with file.with_suffix(".log").open("w", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, env=environment)  # noqa: S603


def _run(recipe: Recipe, file: Path, *options: str) -> None:
    """Run a recipe in a process of its own, to its end.

    Raises:
        CheckError: It ended with an error, or not in time; with the last lines that it wrote.
    """
    process = _start(recipe, file, *options)
    try:
        status: int | None = process.wait(RUN_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = None
    if status != 0:
        ended = f"ended with status {status}" if status is not None else f"had not ended after {RUN_LIMIT_S:.0f} s"
        tail = " | ".join(file.with_suffix(".log").read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        msg = f"python -m vlora {' '.join(options)} {ended}: {tail}"
        raise CheckError(msg)


def _killed_and_resumed(folder: Path, keys: Mapping[str, Any]) -> Recipe:
    """Kill a run once it has saved its state, and go on with it to its end.

    Raises:
        CheckError: It always ended before, or cannot be gone on with.
    """
    for attempt in range(N_KILLS):
        recipe = _recipe(folder, {**keys, "output.path": str(folder / f"killed-{attempt}" / "model")})
        file = folder / f"killed-{attempt}.toml"
        process = _start(recipe, file)
        deadline = time.monotonic() + RUN_LIMIT_S
        while process.poll() is None and not output_paths(recipe).state.is_file() and time.monotonic() < deadline:
            time.sleep(0.002)
        was_running = process.poll() is None
        process.kill()
        process.wait()
        if was_running:
            _run(recipe, file, "--resume")
            return recipe
    msg = f"each of {N_KILLS} runs that were to be killed had ended before it could be"
    raise CheckError(msg)
