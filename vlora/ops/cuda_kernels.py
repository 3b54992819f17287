"""CUDA kernels for operations that MLX has no kernel for, or a slow one. Pure.

Each computes in float32, and rounds its results once, or where MLX's own kernel does. Callers check `on_cuda` first and
fall back to MLX's own operations, which the kernels are tested against.

`nvrtc` compiles them and keeps the code on disk; where it cannot, MLX compiles the same source.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from .cuda_sources import read_source
from .nvrtc import compile_cached, device_architecture

LOAD_BYTES = 16
"""Bytes that a thread reads or writes at once."""

THREADS = 256
"""Threads of a block."""

WARP = 32
"""Threads of a warp, which reduce without a barrier; a row that needs more threads has a block of its own."""

MOST_LANES = 512
"""Threads of a row."""

MOST_LOADS = 16
"""Loads per thread; more do not fit into its registers."""

MOST_NUMBERS = 2**31 - 1
"""Of the arrays that a kernel reads as one row: their length is an `int`, and so is a dimension of MLX."""

FLOATS = (mx.float32, mx.bfloat16, mx.float16)

WORD_ALIGNED = (4, 8)
"""Bit widths of which a 32-bit word holds a whole number; a thread writes a word's values at once."""

LOSS_LANES = 1024
"""Threads that read a row of logits."""

COUNTING = """
    size_t n_numbers = 1;
    for (int axis = 0; axis < {name}_ndim; ++axis) {{
      n_numbers *= {name}_shape[axis];
    }}
    int n_first = n_numbers / {unit};
"""
"""How a kernel that MLX compiles finds `n_first`: neither an array's size nor how many axes it has is compiled in."""

C_TYPES = {
    mx.float32: "float",
    mx.bfloat16: "__nv_bfloat16",
    mx.float16: "__half",
    mx.int32: "int",
    mx.uint32: "unsigned int",
}
"""What CUDA calls MLX's types."""


def on_cuda() -> bool:
    """Whether arrays are computed by an NVIDIA GPU, which these kernels are for."""
    return bool(mx.cuda.is_available()) and mx.default_device() != mx.Device(mx.cpu)


def can_read_whole(width: int, *arrays: mx.array) -> bool:
    """Whether there are kernels for arrays of one type, and rows of a width are whole loads."""
    if not on_cuda() or width > MOST_NUMBERS:
        return False
    dtypes = {array.dtype for array in arrays}
    return len(dtypes) == 1 and dtypes <= set(FLOATS) and width * arrays[0].dtype.size % LOAD_BYTES == 0


def lanes_of(width: int, dtype: mx.Dtype) -> tuple[int, int] | None:
    """Divide a row among threads: (threads, loads per thread); None if it does not consist of whole loads.

    Args:
        width: Elements of the row.
        dtype: Their type.
    """
    n_loads, rest = divmod(width * dtype.size, LOAD_BYTES)
    if rest or not n_loads:
        return None
    # Two loads in flight per thread, if whole warps can have them.
    for loads in (2, 3, 4):
        if n_loads % (loads * WARP) == 0 and n_loads // loads <= MOST_LANES:
            return n_loads // loads, loads
    lanes = min(WARP, n_loads & -n_loads)
    return (lanes, n_loads // lanes) if n_loads // lanes <= MOST_LOADS else None


def unpack_words(weight: mx.array, scales: mx.array, biases: mx.array, group_size: int, bits: int) -> mx.array:
    """Dequantize affine weights of 4 or 8 bits, one word per thread.

    MLX's own kernel (backend/cuda/quantized/affine_quantize.cu of 0.32) gives a byte to a thread, and takes four
    times as long on an H100.

    Args:
        weight: u32[..., inputs bits / 32].
        scales: f[..., inputs / group_size].
        biases: As the scales.
        group_size: Weights that share a scale.
        bits: Of a weight.

    Returns:
        f[..., inputs] in the type of the scales.
    """
    shape = (*weight.shape[:-1], weight.shape[-1] * 32 // bits)
    template = {"T": scales.dtype, "GROUP": group_size, "BITS": bits}
    given = {"weight": weight, "scales": scales, "biases": biases}
    return run_kernel("unpack_words", given, template, weight.size, {"out": shape}, scales.dtype)[0]


def norm_rows(x: mx.array, weight: mx.array, eps: float, shape: Sequence[int]) -> mx.array:
    """RMS normalization of rows that share a warp.

    Args:
        x: f[...], one row of D numbers behind another, D as `lanes_of` takes it.
        weight: f[D] of the same type.
        eps: Added to the mean square.
        shape: Of the result.

    Returns:
        f[*shape].
    """
    given = {"x": x, "weight": weight}
    return _run_rows("norm_rows", given, eps, shape)


def norm_rows_gradient(x: mx.array, weight: mx.array, eps: float, cotangent: mx.array) -> mx.array:
    """Compute the gradient of `norm_rows` for its rows, in their shape; the cotangent has the shape of the result."""
    given = {"x": x, "weight": weight, "cotangent": cotangent}
    return _run_rows("norm_rows_gradient", given, eps, x.shape)


def gate_gradients(gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    """Compute the gradients of `silu(gate) * up` for both inputs in one pass.

    Args:
        gate: f[...] of whole loads.
        up: As the gate.
        cotangent: As the gate.

    Returns:
        f[...] twice: for `gate` and for `up`.
    """
    given = {"gate": gate, "up": up, "cotangent": cotangent}
    n_threads = gate.size * gate.dtype.size // LOAD_BYTES
    shapes = {"of_gate": gate.shape, "of_up": gate.shape}
    of_gate, of_up = run_kernel("gate_gradients", given, {"T": gate.dtype}, n_threads, shapes, gate.dtype)
    return of_gate, of_up


def rotate_halves(x: mx.array, cosines: mx.array, sines: mx.array, *, is_back: bool = False) -> mx.array:
    """Rotate the halves of heads against each other, reading each number once.

    Products and sums are rounded as MLX's operations round them.

    Args:
        x: f[B, T, H, D], D / 2 numbers of whole loads.
        cosines: f[B, T, 1, 2, D / 2] of the same type.
        sines: As the cosines, those of the first half negated.
        is_back: Rotate by the negative angles.

    Returns:
        f[B, T, H, D].
    """
    n_heads, width = x.shape[2:]
    given = {"x": x, "cosines": cosines, "sines": sines}
    template = {"T": x.dtype, "HEADS": n_heads, "HALF": width // 2, "IS_BACK": int(is_back)}
    n_threads = x.size * x.dtype.size // (2 * LOAD_BYTES)
    return run_kernel("rotate_halves", given, template, n_threads, {"out": x.shape}, x.dtype, unit=width)[0]


def move_rows(x: mx.array, rows: mx.array, shape: Sequence[int]) -> mx.array:
    """Gather rows of whole loads, 16 bytes a thread.

    MLX's own gather (backend/cuda/indexing.cpp of 0.32) moves an element a thread, and takes several times as long.

    Args:
        x: f[...], one row behind another.
        rows: i32[...], numbers of its rows; a negative one stands for zeros.
        shape: Of one row: numbers of whole loads.

    Returns:
        f[*rows.shape, *shape].
    """
    given = {"rows": rows, "x": x}
    width = math.prod(shape)
    n_threads = rows.size * width * x.dtype.size // LOAD_BYTES
    shapes = {"out": (*rows.shape, *shape)}
    return run_kernel("move_rows", given, {"T": x.dtype, "WIDTH": width}, n_threads, shapes, x.dtype)[0]


def row_losses(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Compute the negative log-likelihood of each row's target, reading the logits once.

    Args:
        logits: f[N, V], V numbers of whole loads.
        targets: i32[N].

    Returns:
        (f32[N] nats, f32[N] logarithms of the rows' sums of exponentials).
    """
    given = {"logits": logits, "targets": targets}
    template = {"T": logits.dtype, "WIDTH": logits.shape[1], "LANES": LOSS_LANES}
    shapes = {"losses": targets.shape, "normalizers": targets.shape}
    n_threads = targets.size * LOSS_LANES
    losses, normalizers = run_kernel(
        "row_losses", given, template, n_threads, shapes, mx.float32, unit=logits.shape[1], n_block=LOSS_LANES
    )
    return losses, normalizers


def row_losses_gradient(logits: mx.array, targets: mx.array, normalizers: mx.array, cotangent: mx.array) -> mx.array:
    """Compute the gradient of `row_losses`, f32[N], for the logits, f[N, V] in their type."""
    given = {"logits": logits, "targets": targets, "normalizers": normalizers, "cotangent": cotangent}
    template = {"T": logits.dtype, "WIDTH": logits.shape[1]}
    n_threads = logits.size * logits.dtype.size // LOAD_BYTES
    shapes = {"out": logits.shape}
    return run_kernel("row_losses_gradient", given, template, n_threads, shapes, logits.dtype, unit=logits.shape[1])[0]


def _run_rows(name: str, given: Mapping[str, mx.array], eps: float, shape: Sequence[int]) -> mx.array:
    x, width = given["x"], given["weight"].size
    shared = lanes_of(width, x.dtype)
    if shared is None:
        msg = f"rows of {width} numbers cannot be shared out among threads"
        raise ValueError(msg)
    lanes, loads = shared
    template = {"T": x.dtype, "LANES": lanes, "LOADS": loads}
    n_block = lanes if lanes > WARP else THREADS
    constant = f"constexpr float EPS = {eps:.9e}f;\n"
    return run_kernel(
        name,
        given,
        template,
        x.size // width * lanes,
        {"out": shape},
        x.dtype,
        unit=width,
        # Finds a thread's row, the place of its first load, and whether there is such a row.
        start=read_source("rows"),
        constant=constant,
        n_block=n_block,
    )[0]


def run_kernel(
    name: str,
    given: Mapping[str, mx.array],
    template: Mapping[str, Any],
    n_threads: int,
    shapes: Mapping[str, Sequence[int]],
    dtype: mx.Dtype,
    *,
    unit: int = 1,
    start: str = "",
    constant: str = "",
    n_block: int = THREADS,
) -> list[mx.array]:
    """Compile and run a kernel; `unit` is how many numbers of the first array `n_first` counts as one."""
    if not n_threads:
        # CUDA refuses an empty launch.
        return [mx.zeros(tuple(shape), dtype) for shape in shapes.values()]
    # Whole blocks: threads that reduce together have to exist, even without a row of their own.
    n_threads = -(-n_threads // n_block) * n_block
    launch: dict[str, Any] = {
        "inputs": list(given.values()),
        "grid": (n_threads, 1, 1),
        "threadgroup": (n_block, 1, 1),
        "output_shapes": [tuple(shape) for shape in shapes.values()],
        "output_dtypes": [dtype] * len(shapes),
    }
    source = start + read_source(name)
    header, constants = read_source("header") + constant, list(template.items())
    dtypes = {array: value.dtype for array, value in given.items()}
    code = _compiled(whole_source(name, source, header, dtypes, tuple(shapes), dtype, constants))
    results: list[mx.array]
    if code is None:
        counting = COUNTING.format(name=next(iter(given)), unit=unit)
        results = _kernel(name, tuple(given), tuple(shapes), counting + source, header)(template=constants, **launch)
        return results
    results = mx.fast.precompiled_cuda_kernel(
        name=name,
        compiled_source=code,
        # No size of an array is compiled in: there would be as many kernels.
        scalars=[next(iter(given.values())).size // unit],
        ensure_row_contiguous=True,
        **launch,
    )
    return results


def whole_source(
    name: str,
    source: str,
    header: str,
    inputs: Mapping[str, mx.Dtype],
    outputs: Sequence[str],
    dtype: mx.Dtype,
    template: Sequence[tuple[str, Any]],
) -> str:
    """Write out what `mx.fast.cuda_kernel` makes of the body of a kernel, to be compiled without MLX's headers.

    Args:
        name: The kernel's; it is called by it.
        source: Its body.
        header: What it calls.
        inputs: Names and types of the arrays that it reads.
        outputs: Names of those that it writes.
        dtype: Their type.
        template: Types and numbers that the body is compiled for, by their names.

    Returns:
        CUDA C++; the last argument, `n_first`, says how many numbers, or rows of them, the first array has.
    """
    parameters = [f"const {C_TYPES[given]}* {array}" for array, given in inputs.items()]
    parameters += [f"{C_TYPES[dtype]}* {array}" for array in outputs]
    constants = "".join(
        f"  using {key} = {C_TYPES[value]};\n" if isinstance(value, mx.Dtype) else f"  constexpr int {key} = {value};\n"
        for key, value in template
    )
    signature = ", ".join([*parameters, "int n_first"])
    return f'{header}\nextern "C" __global__ void {name}({signature}) {{\n{constants}{source}\n}}\n'


@functools.cache
def _compiled(source: str) -> bytes | None:
    return compile_cached(source, device_architecture())


@functools.cache
def _kernel(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], source: str, header: str) -> Any:
    return mx.fast.cuda_kernel(
        name=name, input_names=list(inputs), output_names=list(outputs), source=source, header=header
    )
