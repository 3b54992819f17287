"""CUDA kernels, for what MLX has none, or one that leaves the device waiting. Pure.

Each computes in float32, and rounds its results once, or where MLX's own does. Who calls one asks `on_cuda` first, and
has MLX's own way besides: it is what runs elsewhere, and what a kernel is tested against.

`nvrtc` compiles them and keeps the code on disk; where it cannot, MLX compiles the same source.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from .nvrtc import compile_cached, device_architecture

LOAD_BYTES = 16
"""What a thread reads and writes at once."""

THREADS = 256
"""Threads of a block."""

WARP = 32
"""Threads that add up their numbers without a barrier; a row that takes more of them has a block of its own."""

MOST_LANES = 512
"""Threads of a row."""

MOST_LOADS = 16
"""Of a thread at once; beyond that they do not fit into its registers."""

FLOATS = (mx.float32, mx.bfloat16, mx.float16)

WORD_ALIGNED = (4, 8)
"""Bits of which a word of 32 holds a whole number, and a thread writes a word's values at once."""

UNPACK_SOURCE = """
    auto word = thread_rank();
    if (word >= n_first) {
      return;
    }
    constexpr int PER_WORD = 32 / BITS;
    auto bits = weight[word];
    auto group = word / (GROUP / PER_WORD);
    float scale = static_cast<float>(scales[group]);
    float bias = static_cast<float>(biases[group]);
    Pack<T, PER_WORD> values;
    for (int item = 0; item < PER_WORD; ++item) {
      float code = static_cast<float>((bits >> (item * BITS)) & ((1u << BITS) - 1));
      values.items[item] = static_cast<T>(code * scale + bias);
    }
    reinterpret_cast<Pack<T, PER_WORD>*>(out)[word] = values;
"""

HEADER = """
namespace {

__device__ size_t thread_rank() {
  return static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Numbers that are read or written at once, as far as they are 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T items[N];
};

template <typename T>
constexpr int SIZE = 16 / sizeof(T);

template <typename T>
using Load = Pack<T, SIZE<T>>;

// Adds up what the threads of a row have; all threads of the block take part.
template <int LANES>
__device__ float2 sums_of_lanes(float2 values) {
  for (int distance = (LANES < 32 ? LANES : 32) / 2; distance > 0; distance /= 2) {
    values.x += __shfl_xor_sync(0xffffffffu, values.x, distance);
    values.y += __shfl_xor_sync(0xffffffffu, values.y, distance);
  }
  if constexpr (LANES > 32) {
    __shared__ float2 of_warps[LANES / 32];
    if (threadIdx.x % 32 == 0) {
      of_warps[threadIdx.x / 32] = values;
    }
    __syncthreads();
    values = {0.0f, 0.0f};
#pragma unroll
    for (int warp = 0; warp < LANES / 32; ++warp) {
      values.x += of_warps[warp].x;
      values.y += of_warps[warp].y;
    }
  }
  return values;
}

} // namespace
"""

ROW_SOURCE = """
    auto thread = thread_rank();
    auto row = thread / LANES;
    bool is_row = row < n_first;
    int lane = thread % LANES;
    auto start = (is_row ? row : 0) * LOADS * LANES + lane;
"""
"""Which row a thread works on, where its first load is, and whether there is such a row."""

NORM_SOURCE = """
    Load<T> values[LOADS];
    float2 sums = {0.0f, 0.0f};
#pragma unroll
    for (int load = 0; load < LOADS; ++load) {
      values[load] = reinterpret_cast<const Load<T>*>(x)[start + load * LANES];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float value = static_cast<float>(values[load].items[item]);
        sums.x += value * value;
      }
    }
    float factor = rsqrtf(sums_of_lanes<LANES>(sums).x / (LOADS * LANES * SIZE<T>) + EPS);
    if (!is_row) {
      return;
    }
#pragma unroll
    for (int load = 0; load < LOADS; ++load) {
      auto weights = reinterpret_cast<const Load<T>*>(weight)[lane + load * LANES];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float value = static_cast<float>(values[load].items[item]) * factor;
        // Rounded before the weight and after it, as MLX's own kernel does.
        value = static_cast<float>(static_cast<T>(value)) * static_cast<float>(weights.items[item]);
        values[load].items[item] = static_cast<T>(value);
      }
      reinterpret_cast<Load<T>*>(out)[start + load * LANES] = values[load];
    }
"""

NORM_GRADIENT_SOURCE = """
    Load<T> values[LOADS];
    Load<T> towards[LOADS];
    float2 sums = {0.0f, 0.0f};
#pragma unroll
    for (int load = 0; load < LOADS; ++load) {
      values[load] = reinterpret_cast<const Load<T>*>(x)[start + load * LANES];
      towards[load] = reinterpret_cast<const Load<T>*>(cotangent)[start + load * LANES];
      auto weights = reinterpret_cast<const Load<T>*>(weight)[lane + load * LANES];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float value = static_cast<float>(values[load].items[item]);
        sums.x += value * value;
        sums.y += value * static_cast<float>(weights.items[item]) * static_cast<float>(towards[load].items[item]);
      }
    }
    constexpr int WIDTH = LOADS * LANES * SIZE<T>;
    sums = sums_of_lanes<LANES>(sums);
    float factor = rsqrtf(sums.x / WIDTH + EPS);
    float along = sums.y / WIDTH * factor * factor * factor;
    if (!is_row) {
      return;
    }
#pragma unroll
    for (int load = 0; load < LOADS; ++load) {
      auto weights = reinterpret_cast<const Load<T>*>(weight)[lane + load * LANES];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float scaled = static_cast<float>(weights.items[item]) * static_cast<float>(towards[load].items[item]);
        float value = static_cast<float>(values[load].items[item]);
        values[load].items[item] = static_cast<T>(factor * scaled - value * along);
      }
      reinterpret_cast<Load<T>*>(out)[start + load * LANES] = values[load];
    }
"""

GATE_GRADIENT_SOURCE = """
    auto place = thread_rank();
    if (place >= n_first / SIZE<T>) {
      return;
    }
    auto gates = reinterpret_cast<const Load<T>*>(gate)[place];
    auto ups = reinterpret_cast<const Load<T>*>(up)[place];
    auto towards = reinterpret_cast<const Load<T>*>(cotangent)[place];
#pragma unroll
    for (int item = 0; item < SIZE<T>; ++item) {
      float value = static_cast<float>(gates.items[item]);
      float sigmoid = 1.0f / (1.0f + __expf(-value));
      float towards_up = static_cast<float>(towards.items[item]) * sigmoid;
      float bend = 1.0f + value * (1.0f - sigmoid);
      gates.items[item] = static_cast<T>(towards_up * static_cast<float>(ups.items[item]) * bend);
      ups.items[item] = static_cast<T>(towards_up * value);
    }
    reinterpret_cast<Load<T>*>(of_gate)[place] = gates;
    reinterpret_cast<Load<T>*>(of_up)[place] = ups;
"""


LOSS_SOURCE = """
    constexpr int N_LOADS = WIDTH / SIZE<T>;
    auto row = static_cast<size_t>(blockIdx.x);
    auto from = reinterpret_cast<const Load<T>*>(logits) + row * N_LOADS;
    // Not minus infinity: the difference of two of them is not a number.
    float top = -3e38f;
    float total = 0;
    for (int load = threadIdx.x; load < N_LOADS; load += LANES) {
      auto values = from[load];
      float above = top;
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        above = fmaxf(above, static_cast<float>(values.items[item]));
      }
      total *= __expf(top - above);
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        total += __expf(static_cast<float>(values.items[item]) - above);
      }
      top = above;
    }
    __shared__ float tops[LANES / 32];
    __shared__ float totals[LANES / 32];
    int lane = threadIdx.x % 32;
    for (int round = 0; round < 2; ++round) {
      for (int distance = 16; distance > 0; distance /= 2) {
        float other_top = __shfl_xor_sync(0xffffffffu, top, distance);
        float other_total = __shfl_xor_sync(0xffffffffu, total, distance);
        float above = fmaxf(top, other_top);
        total = total * __expf(top - above) + other_total * __expf(other_top - above);
        top = above;
      }
      if (round == 0) {
        if (lane == 0) {
          tops[threadIdx.x / 32] = top;
          totals[threadIdx.x / 32] = total;
        }
        __syncthreads();
        top = lane < LANES / 32 ? tops[lane] : -3e38f;
        total = lane < LANES / 32 ? totals[lane] : 0.0f;
      }
    }
    if (threadIdx.x == 0) {
      float normalizer = top + logf(total);
      normalizers[row] = normalizer;
      // Negative ones count from the end, as in MLX: what does not count may have any target.
      int target = targets[row] < 0 ? targets[row] + WIDTH : targets[row];
      losses[row] = normalizer - static_cast<float>(logits[row * WIDTH + target]);
    }
"""

LOSS_GRADIENT_SOURCE = """
    constexpr int N_LOADS = WIDTH / SIZE<T>;
    auto place = thread_rank();
    auto row = place / N_LOADS;
    if (row >= n_first) {
      return;
    }
    float normalizer = normalizers[row];
    float towards = cotangent[row];
    int target = targets[row] < 0 ? targets[row] + WIDTH : targets[row];
    target -= static_cast<int>(place % N_LOADS) * SIZE<T>;
    auto values = reinterpret_cast<const Load<T>*>(logits)[place];
#pragma unroll
    for (int item = 0; item < SIZE<T>; ++item) {
      float share = __expf(static_cast<float>(values.items[item]) - normalizer);
      values.items[item] = static_cast<T>((item == target ? share - 1.0f : share) * towards);
    }
    reinterpret_cast<Load<T>*>(out)[place] = values;
"""

LOSS_LANES = 1024
"""Threads that read a row of logits."""

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
    if not on_cuda():
        return False
    dtypes = {array.dtype for array in arrays}
    return len(dtypes) == 1 and dtypes <= set(FLOATS) and width * arrays[0].dtype.size % LOAD_BYTES == 0


def lanes_of(width: int, dtype: mx.Dtype) -> tuple[int, int] | None:
    """Share out a row: (threads, loads of each); None where it cannot be in whole loads.

    Args:
        width: Numbers of the row.
        dtype: Theirs.
    """
    n_loads, rest = divmod(width * dtype.size, LOAD_BYTES)
    if rest or not n_loads:
        return None
    # Two loads under way for each thread, where whole warps can have them.
    for loads in (2, 3, 4):
        if n_loads % (loads * WARP) == 0 and n_loads // loads <= MOST_LANES:
            return n_loads // loads, loads
    lanes = min(WARP, n_loads & -n_loads)
    return (lanes, n_loads // lanes) if n_loads // lanes <= MOST_LOADS else None


def unpack_words(weight: mx.array, scales: mx.array, biases: mx.array, group_size: int, bits: int) -> mx.array:
    """Unpack affine weights of 4 or 8 bits, a word to a thread.

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
    given = {"weight": weight.reshape(-1), "scales": scales, "biases": biases}
    return _run("unpack_words", UNPACK_SOURCE, given, template, weight.size, {"out": shape}, scales.dtype)[0]


def norm_rows(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """Normalize rows by the root of their mean square, rows sharing a warp.

    Args:
        x: f[N, D], D as `lanes_of` takes it.
        weight: f[D] of the same type.
        eps: Added to the mean square.

    Returns:
        f[N, D].
    """
    given = {"x": x, "weight": weight}
    return _run_rows("norm_rows", NORM_SOURCE, given, eps)


def norm_rows_gradient(x: mx.array, weight: mx.array, eps: float, cotangent: mx.array) -> mx.array:
    """Carry a gradient, f[N, D], through `norm_rows` to its rows."""
    given = {"x": x, "weight": weight, "cotangent": cotangent}
    return _run_rows("norm_rows_gradient", NORM_GRADIENT_SOURCE, given, eps)


def gate_gradients(gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    """Carry a gradient through `silu(gate) * up` to both of them, in one pass.

    Args:
        gate: f[N], N numbers of whole loads.
        up: f[N] of the same type.
        cotangent: f[N] of the same type.

    Returns:
        f[N] twice: of the gate, of what it lets through.
    """
    given = {"gate": gate, "up": up, "cotangent": cotangent}
    n_threads = gate.size * gate.dtype.size // LOAD_BYTES
    shapes = {"of_gate": gate.shape, "of_up": gate.shape}
    of_gate, of_up = _run(
        "gate_gradients", GATE_GRADIENT_SOURCE, given, {"T": gate.dtype}, n_threads, shapes, gate.dtype
    )
    return of_gate, of_up


def row_losses(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Find the negative log-likelihood of a target in each row, reading the logits once.

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
    losses, normalizers = _run(
        "row_losses", LOSS_SOURCE, given, template, n_threads, shapes, mx.float32, n_block=LOSS_LANES
    )
    return losses, normalizers


def row_losses_gradient(logits: mx.array, targets: mx.array, normalizers: mx.array, cotangent: mx.array) -> mx.array:
    """Carry a gradient of `row_losses`, f32[N], to the logits, f[N, V] in their type."""
    given = {"logits": logits, "targets": targets, "normalizers": normalizers, "cotangent": cotangent}
    template = {"T": logits.dtype, "WIDTH": logits.shape[1]}
    n_threads = logits.size * logits.dtype.size // LOAD_BYTES
    source = LOSS_GRADIENT_SOURCE
    return _run("row_losses_gradient", source, given, template, n_threads, {"out": logits.shape}, logits.dtype)[0]


def _run_rows(name: str, source: str, given: Mapping[str, mx.array], eps: float) -> mx.array:
    x = given["x"]
    shared = lanes_of(x.shape[1], x.dtype)
    if shared is None:
        msg = f"rows of {x.shape[1]} numbers cannot be shared out among threads"
        raise ValueError(msg)
    lanes, loads = shared
    template = {"T": x.dtype, "LANES": lanes, "LOADS": loads}
    n_block = lanes if lanes > WARP else THREADS
    constant = f"constexpr float EPS = {eps:.9e}f;\n"
    shapes = {"out": x.shape}
    return _run(
        name,
        ROW_SOURCE + source,
        given,
        template,
        x.shape[0] * lanes,
        shapes,
        x.dtype,
        constant=constant,
        n_block=n_block,
    )[0]


def _run(
    name: str,
    source: str,
    given: Mapping[str, mx.array],
    template: Mapping[str, Any],
    n_threads: int,
    shapes: Mapping[str, Sequence[int]],
    dtype: mx.Dtype,
    *,
    constant: str = "",
    n_block: int = THREADS,
) -> list[mx.array]:
    if not n_threads:
        # CUDA refuses to begin nothing.
        return [mx.zeros(tuple(shape), dtype) for shape in shapes.values()]
    # Whole blocks: threads that add up together have to be there, even if nothing is left for them to do.
    n_threads = -(-n_threads // n_block) * n_block
    launch: dict[str, Any] = {
        "inputs": list(given.values()),
        "grid": (n_threads, 1, 1),
        "threadgroup": (n_block, 1, 1),
        "output_shapes": [tuple(shape) for shape in shapes.values()],
        "output_dtypes": [dtype] * len(shapes),
    }
    header, constants = HEADER + constant, list(template.items())
    dtypes = {array: value.dtype for array, value in given.items()}
    code = _compiled(whole_source(name, source, header, dtypes, tuple(shapes), dtype, constants))
    results: list[mx.array]
    if code is None:
        counting = f"    int n_first = {next(iter(given))}_shape[0];\n"
        results = _kernel(name, tuple(given), tuple(shapes), counting + source, header)(template=constants, **launch)
        return results
    results = mx.fast.precompiled_cuda_kernel(
        name=name,
        compiled_source=code,
        # No size of an array is compiled in: there would be as many kernels.
        scalars=[next(iter(given.values())).shape[0]],
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
        CUDA C++; the last argument, `n_first`, is the length of the first array.
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
