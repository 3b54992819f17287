"""Checks of operations and their gradients: products, norms, gates, rotations, the loss, 4-bit weights, kernels."""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..ops import blas, functional
from ..ops.cpu_exp import has_slow_exponentials
from ..ops.quantized import dequantized_weight, frozen_linear
from ..train.objectives.sft import loss_fn
from .comparison import (
    TOLERANCES,
    TYPES,
    Function,
    Numbers,
    Shares,
    bounded_difference,
    compare,
    describe_shares,
    forward_and_back,
    normal,
    round_to,
    to_array,
    to_numbers,
    type_name,
)


def check_products(_: Path) -> str:
    """Check matrix products and their gradients."""
    x, weight, towards = normal(0, 96, 160), normal(1, 64, 160), normal(2, 96, 64)

    def expected(x: Numbers, weight: Numbers, towards: Numbers) -> list[Numbers]:
        return [x @ weight.T, towards @ weight, towards.T @ x]

    return describe_shares([compare(lambda x, weight: x @ weight.T, expected, [x, weight], towards)])


def check_norm(_: Path) -> str:
    """Check RMS normalization of narrow and wide rows with a frozen weight."""

    def expected(weight: Numbers) -> Callable[..., list[Numbers]]:
        def compute(x: Numbers, towards: Numbers) -> list[Numbers]:
            factor = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)
            scaled = towards * weight
            along = np.mean(x * scaled, axis=-1, keepdims=True)
            return [x * factor * weight, factor * scaled - x * factor**3 * along]

        return compute

    found = []
    for width in (128, 2048):
        weight = 1 + 0.1 * normal(1, width)
        for dtype in TYPES:
            rounded = round_to(weight, dtype)
            frozen = mx.array(rounded.astype(np.float32)).astype(dtype)
            found.append(
                compare(
                    lambda x, frozen=frozen: functional.rms_norm(x, frozen, 1e-6),
                    expected(rounded),
                    [normal(0, 48, width)],
                    normal(2, 48, width),
                    types=(dtype,),
                )
            )
    return describe_shares(found)


def check_swiglu(_: Path) -> str:
    """Check SwiGLU gates."""

    def expected(gate: Numbers, up: Numbers, towards: Numbers) -> list[Numbers]:
        sigmoid = 1 / (1 + np.exp(-gate))
        return [
            gate * sigmoid * up,
            towards * up * sigmoid * (1 + gate * (1 - sigmoid)),
            towards * gate * sigmoid,
        ]

    arrays = [4 * normal(0, 48, 256), normal(1, 48, 256)]
    return describe_shares([compare(functional.swiglu, expected, arrays, normal(2, 48, 256))])


def check_rotations(_: Path) -> str:
    """Check rotary embeddings, with angles that rows share and with their own, as a GPU's kernel takes them."""
    angles = np.arange(24)[None, :, None, None, None] * 10.0 ** -np.arange(0, 4, 0.125)
    cosines = np.concatenate([np.cos(angles)] * 2, axis=-2)
    sines = np.concatenate([-np.sin(angles), np.sin(angles)], axis=-2)

    def turned(x: Numbers, sines: Numbers) -> Numbers:
        halves = x.reshape(*x.shape[:-1], 2, -1)
        both: Numbers = halves * cosines + halves[..., ::-1, :] * sines
        return both.reshape(x.shape)

    def rotate(x: mx.array) -> mx.array:
        return functional.rotate(x, to_array(cosines, mx.float32), to_array(sines, mx.float32))

    def rotate_rows(x: mx.array) -> mx.array:
        both = (mx.repeat(to_array(angles, x.dtype), len(x), axis=0) for angles in (cosines, sines))
        return functional.rotate(x, *both)

    def expected(x: Numbers, towards: Numbers) -> list[Numbers]:
        return [turned(x, sines), turned(towards, -sines)]

    shape = (2, 24, 3, 64)
    arrays, towards = [normal(0, *shape)], normal(1, *shape)
    return describe_shares([compare(function, expected, arrays, towards) for function in (rotate, rotate_rows)])


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
        return loss_fn(logits, mx.array(targets.astype(np.int32)), to_array(weights, mx.float32))[0]

    return describe_shares([compare(loss, expected, [3 * normal(0, 48, 512)], np.ones(()))])


def check_quantized(_: Path) -> str:
    """Check 4-bit weights: unpacking, and products with packed weights (few rows) and unpacked ones (many rows)."""
    linear = nn.Linear(256, 128, bias=False)
    linear.weight = to_array(normal(0, 128, 256) / 16, mx.float32)
    packed = nn.QuantizedLinear.from_linear(linear, group_size=64, bits=4)
    words = np.array(packed.weight)
    codes = (words[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(128, 4, 64)
    scales, biases = (np.array(packed[name]).astype(np.float64)[..., None] for name in ("scales", "biases"))
    weight = (codes * scales + biases).reshape(128, 256)
    found = [{"unpacked": bounded_difference("the unpacked weights", dequantized_weight(packed), weight, 1e-5)}]
    found += [
        compare(
            lambda x: frozen_linear(packed, x),
            lambda x, towards: [x @ weight.T, towards @ weight],
            [normal(1, n_rows, 256)],
            normal(2, n_rows, 128),
        )
        for n_rows in (8, 256)
    ]
    return describe_shares(found)


def check_kernels(_: Path) -> str:
    """Compare vlora's CUDA kernels with MLX's operations."""
    targets = mx.arange(64)
    found: list[Shares] = []
    for dtype in TYPES:
        x, up, logits = (to_array(normal(seed, 64, 512), dtype) for seed in range(3))
        weight = to_array(1 + 0.1 * normal(3, 512), dtype)
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
        name = type_name(dtype)
        for part, own, other, given in pairs:
            towards = mx.ones_like(own(*given))
            made = forward_and_back(own, given, towards), forward_and_back(other, given, towards)
            for one, two in zip(*made, strict=True):
                found.append({name: bounded_difference(f"{part} in {name}", one, to_numbers(two), TOLERANCES[name])})
        unpacked = mx.dequantize(packed.weight, packed.scales, packed.biases, group_size=64, bits=4)
        share = bounded_difference(
            f"unpacked in {name}", dequantized_weight(packed), to_numbers(unpacked), TOLERANCES[name]
        )
        found.append({name: share})
    return describe_shares(found)


def check_blas(_: Path) -> str:
    """Time a matrix product on the CPU, and name the library that computes it."""
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
