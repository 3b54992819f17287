"""CUDA code compiled without MLX and kept on disk; a compiler is needed for one test only, a GPU for none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from vlora.ops import cuda_heads, cuda_kernels, nvrtc
from vlora.ops.cuda_heads import place_heads
from vlora.ops.cuda_kernels import (
    gate_gradients,
    move_rows,
    norm_rows,
    norm_rows_gradient,
    rotate_halves,
    row_losses,
    row_losses_gradient,
    unpack_words,
)
from vlora.system.cache import KERNELS_VARIABLE

SOURCE = 'extern "C" __global__ void fill(float* out) { out[threadIdx.x] = 1.0f; }\n'


class Counting:
    """A compiler that counts what it is asked for."""

    version = (13, 0)

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.sources: list[str] = []

    def compile(self, source: str, architecture: str) -> bytes:
        """Give something that says for what it is."""
        self.sources.append(source)
        if self.refuses:
            msg = "no"
            raise nvrtc.CompilationError(msg)
        return f"code for {architecture}".encode()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path / "kernels"))
    return tmp_path / "kernels" / "vlora"


@pytest.fixture
def compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    del cache
    found = Counting()
    monkeypatch.setattr(nvrtc, "find_compiler", lambda: found)
    return found


def test_code_is_compiled_once(compiler: Counting, cache: Path) -> None:
    """A second process finds it; another source, architecture or compiler is another file."""
    first, again = (nvrtc.compile_cached(SOURCE, "sm_90a") for _ in range(2))

    assert first == again == b"code for sm_90a"
    assert len(compiler.sources) == 1
    assert nvrtc.compile_cached(SOURCE, "sm_89") == b"code for sm_89"
    nvrtc.compile_cached(SOURCE + "\n", "sm_90a")
    compiler.version = (13, 1)
    nvrtc.compile_cached(SOURCE, "sm_90a")
    assert len(compiler.sources) == len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 60])
def test_a_damaged_file_is_written_anew(compiler: Counting, cache: Path, damage: bytes) -> None:
    """Nothing of it reaches the device."""
    nvrtc.compile_cached(SOURCE, "sm_90a")
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)

    assert nvrtc.compile_cached(SOURCE, "sm_90a") == b"code for sm_90a"
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-1] + b"!")
    assert nvrtc.compile_cached(SOURCE, "sm_90a") == b"code for sm_90a"
    assert len(compiler.sources) == 3


@pytest.mark.usefixtures("compiler")
def test_a_folder_that_cannot_be_written_keeps_nothing(cache: Path) -> None:
    """The code is there all the same."""
    cache.parent.mkdir()
    cache.write_text("a file")

    assert nvrtc.compile_cached(SOURCE, "sm_90a") == b"code for sm_90a"


def test_without_a_compiler_there_is_no_code(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where it refuses."""
    monkeypatch.setattr(nvrtc, "find_compiler", lambda: None)
    assert nvrtc.compile_cached(SOURCE, "sm_90a") is None
    monkeypatch.setattr(nvrtc, "find_compiler", lambda: Counting(refuses=True))
    assert nvrtc.compile_cached(SOURCE, "sm_90a") is None
    assert not list(cache.iterdir())


@pytest.mark.skipif(nvrtc.find_compiler() is None, reason="needs NVRTC and CUDA's headers")
def test_the_compiler_says_what_is_wrong() -> None:
    """And makes machine code of what is not."""
    compiler = nvrtc.find_compiler()

    assert compiler is not None
    assert compiler.compile(SOURCE, "sm_90a").startswith(b"\x7fELF")
    with pytest.raises(nvrtc.CompilationError, match="nonsense"):
        compiler.compile("nonsense", "sm_90a")


def call_all(dtype: mx.Dtype) -> None:
    """Call every kernel, rows of one thread, of a warp, of a block."""
    for bits in (4, 8):
        groups = mx.zeros((8, 2), dtype)
        unpack_words(mx.zeros((8, 2 * bits), mx.uint32), groups, groups, 32, bits)
    for width in (8, 1152, 4096):
        rows, weight = mx.zeros((5, width), dtype), mx.zeros(width, dtype)
        if cuda_kernels.lanes_of(width, dtype) is not None:
            norm_rows(rows, weight, 1e-6, rows.shape)
            norm_rows_gradient(rows, weight, 1e-6, rows)
    numbers = mx.zeros(64, dtype)
    gate_gradients(numbers, numbers, numbers)
    logits, targets, factors = mx.zeros((3, 64), dtype), mx.zeros(3, mx.int32), mx.zeros(3)
    row_losses(logits, targets)
    row_losses_gradient(logits, targets, factors, factors)
    move_rows(logits, targets, (64,))
    angles = mx.zeros((2, 3, 1, 2, 32), dtype)
    for is_back in (False, True):
        rotate_halves(mx.zeros((2, 3, 5, 64), dtype), angles, angles, is_back=is_back)
    places = mx.zeros((2, 3), mx.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_heads, "has_kernel", lambda *_: True)
        heads = mx.zeros((6, 5 * 64), dtype)
        towards = [mx.zeros((7, 4, 5, 64), dtype)]
        given = (mx.zeros(64, dtype), 1e-6), (angles, angles), mx.zeros((7, 4), mx.int32), places
        mx.vjp(lambda x: place_heads(x, *given), [heads], towards)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Note what would be launched instead of launching it."""
    launches: list[dict[str, Any]] = []

    def launch(**given: Any) -> list[mx.array]:
        launches.append(given)
        return [mx.zeros(shape, of) for shape, of in zip(given["output_shapes"], given["output_dtypes"], strict=True)]

    monkeypatch.setattr(cuda_kernels, "device_architecture", lambda: "sm_90a")
    monkeypatch.setattr(mx.fast, "precompiled_cuda_kernel", launch)
    monkeypatch.setattr(mx.fast, "cuda_kernel", lambda **made: lambda **given: launch(**made, **given))
    cuda_kernels._compiled.cache_clear()
    cuda_kernels._kernel.cache_clear()
    yield launches
    cuda_kernels._compiled.cache_clear()
    cuda_kernels._kernel.cache_clear()


LENGTHS = {
    "unpack_words": [8 * 8, 8 * 16],
    "norm_rows": [5, 5, 5],
    "norm_rows_gradient": [5, 5, 5],
    "gate_gradients": [64],
    "row_losses": [3],
    "row_losses_gradient": [3],
    "move_rows": [3],
    "rotate_halves": [2 * 3 * 5, 2 * 3 * 5],
    "place_heads": [7 * 4],
    "place_heads_gradient": [2 * 3],
}
"""How many numbers the first array of each kernel has, or rows of them, in the order of `call_all`."""


def test_kernels_are_launched_with_their_first_length(compiler: Counting, launched: list[dict[str, Any]]) -> None:
    """In whole blocks; the sources name MLX in no place."""
    call_all(mx.bfloat16)

    assert [launch["name"] for launch in launched if launch["name"] != "norm_rows"][:3] == [
        "unpack_words",
        "unpack_words",
        "norm_rows_gradient",
    ]
    for name, lengths in LENGTHS.items():
        assert [launch["scalars"] for launch in launched if launch["name"] == name] == [[length] for length in lengths]
    for launch in launched:
        assert launch["grid"][0] % launch["threadgroup"][0] == 0
    assert not [source for source in compiler.sources if "mlx" in source or "cg::" in source]
    # One kernel serves all lengths.
    n_compiled = len(compiler.sources)
    norm_rows(mx.zeros((77, 8), mx.bfloat16), mx.zeros(8, mx.bfloat16), 1e-6, (77, 8))
    assert len(compiler.sources) == n_compiled


def test_mlx_compiles_where_nothing_else_does(launched: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same body, which finds the length of the first array where MLX gives it."""
    monkeypatch.setattr(nvrtc, "find_compiler", lambda: None)
    call_all(mx.float32)

    assert launched
    for launch in launched:
        assert f"n_numbers *= {launch['input_names'][0]}_shape[axis];" in launch["source"]
        assert "scalars" not in launch


@pytest.mark.usefixtures("compiler")
def test_arrays_of_any_axes_are_one_row_behind_another(launched: list[dict[str, Any]]) -> None:
    """The kernels get the arrays as they are, and the shape that the result is wanted in."""
    rows, weight = mx.zeros((2, 3, 5, 64), mx.bfloat16), mx.zeros(64, mx.bfloat16)
    groups = mx.zeros((2, 8, 2), mx.bfloat16)
    found = [
        norm_rows(rows, weight, 1e-6, rows.shape),
        norm_rows_gradient(rows, weight, 1e-6, rows),
        *gate_gradients(rows, rows, rows),
        move_rows(rows, mx.zeros((4, 7), mx.int32), (5, 64)),
        unpack_words(mx.zeros((2, 8, 8), mx.uint32), groups, groups, 32, 4),
    ]

    assert [value.shape for value in found] == [rows.shape] * 4 + [(4, 7, 5, 64), (2, 8, 64)]
    assert [launch["scalars"] for launch in launched] == [[30], [30], [30 * 64], [28], [2 * 8 * 8]]
    for launch in launched:
        work = launch["grid"][0]
        assert work % launch["threadgroup"][0] == 0
    assert launched[0]["grid"][0] >= 30 * 8
    assert launched[3]["grid"][0] >= 28 * 5 * 8


@pytest.mark.skipif(nvrtc.find_compiler() is None, reason="needs NVRTC and CUDA's headers")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.usefixtures("cache")
def test_every_kernel_compiles(launched: list[dict[str, Any]], dtype: mx.Dtype) -> None:
    """To machine code of its own name."""
    call_all(dtype)

    assert all(launch["compiled_source"].startswith(b"\x7fELF") for launch in launched)
    assert all(launch["name"].encode() in launch["compiled_source"] for launch in launched)
