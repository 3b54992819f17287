"""Kernels made again from their names; a stand-in for the compiler shows which ones MLX would have compiled."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from benchmarks.kernels import list_constants, list_folder
from vlora.compilation import worker
from vlora.compilation.kernel_list import read_known
from vlora.compilation.kernel_names import INDEXING, UnknownNameError, parse_constant
from vlora.compilation.rebuild import make_kernel, rebuild
from vlora.compilation.worker import write_sources

on_cpu = pytest.mark.skipif(
    shutil.which("g++") is None or mx.default_device() != mx.Device(mx.cpu), reason="needs MLX's compiler for a CPU"
)


Function = Callable[..., Any]
Sources = Callable[..., dict[str, str]]


def outer(x: mx.array, y: mx.array) -> mx.array:
    return mx.square(x[:, None] * 0.371) + mx.exp(y[None] * x[:, None])


def adam(g: mx.array, m: mx.array, v: mx.array) -> list[mx.array]:
    m, v = 0.912 * m + 0.088 * g, 0.998 * v + 0.002 * mx.square(g)
    return [m, v, m / (mx.sqrt(v) + 1e-7)]


def many(*xs: mx.array) -> mx.array:
    total = xs[0] * 0.17
    for x in xs[1:]:
        total = mx.where(x > total, x.astype(mx.float32), mx.sigmoid(total) / x)
    return total


def any_shape(x: mx.array, y: mx.array) -> mx.array:
    activated: mx.array = nn.relu(x)
    return activated * 1.37 + mx.erf(y)


def strided(x: mx.array) -> mx.array:
    return mx.tanh(x * 0.23) * x


def of_types(x: mx.array, i: mx.array) -> mx.array:
    return x.astype(mx.float32) * 2.31 + (i // 3).astype(mx.float32)


def without_axes(x: mx.array, y: mx.array) -> mx.array:
    return mx.minimum(x / 3.1, mx.logaddexp(x, y))


x, y = mx.arange(6.0), mx.arange(4.0)
mx.eval(x, y)
FUNCTIONS: dict[str, tuple[Function, list[mx.array]]] = {
    "broadcasts": (mx.compile(outer), [x, y]),
    "several outputs": (mx.compile(adam), [x, x + 1, x + 2]),
    "any shape": (mx.compile(any_shape, shapeless=True), [x, x]),
    "strided": (mx.compile(strided), [mx.ones((4, 6, 4))[::2, ::3, ::2]]),
    "types": (
        mx.compile(of_types),
        [x.astype(mx.bfloat16), mx.arange(6)],
    ),
    "no axes": (mx.compile(without_axes), [mx.array(1.5), mx.array(2.5)]),
    "names of two letters": (mx.compile(many), [x + k for k in range(8)]),
}


@pytest.fixture
def would_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Give the sources that MLX would compile for what `run` evaluates."""

    def sources(run: Callable[[], None], names: list[str] | None = None) -> dict[str, str]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        root.mkdir()
        with monkeypatch.context() as patch:
            patch.setenv("TMPDIR", str(root))
            patch.setattr(worker, "make_kernel", lambda *_: run())
            write_sources([("any", "", [])], root)
        found = {known.name: (root / known.kind, known) for known in list_folder(root)}
        assert names is None or names == list(found)
        return {
            name: next(file for file in root.rglob("*.cpp") if f"void {name}(" in file.read_text()).read_text()
            for name in found
        }

    return sources


@on_cpu
@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_name_makes_the_kernel_again(case: str, would_compile: Sources) -> None:
    """To the last letter of its source."""
    function, arrays = FUNCTIONS[case]
    mx.eval(arrays)
    wanted = would_compile(lambda: mx.eval(function(*arrays)))
    assert wanted

    for name, source in wanted.items():
        constants = [parse_constant(text) for text in list_constants(source)]
        run, tiny = rebuild(name, constants)
        assert would_compile(lambda run=run, tiny=tiny: mx.eval(run(*tiny))) == {name: source}


MAKE_ALL = """
import json, pathlib, sys
from vlora.compilation.worker import ENTRY, write_sources
root = pathlib.Path(sys.argv[1])
for line in sys.stdin.read().splitlines():
    for file in root.rglob("*.cpp"):
        file.unlink()
    write_sources([json.loads(line)], root)
    print(*(ENTRY.search(file.read_text())[1] for file in root.rglob("*.cpp")))
"""


@on_cpu
def test_every_known_kernel_is_made_again(tmp_path: Path) -> None:
    """By this version of MLX, in a process that has loaded none; a GPU's names are a CPU's but for the layout."""
    known = [one for one in read_known() if not INDEXING.fullmatch(one.name)]
    made = subprocess.run(
        [sys.executable, "-c", MAKE_ALL, str(tmp_path)],
        input="\n".join(one.line for one in known),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )

    assert len([one for one in known if one.kind == "cpu"]) > 100
    for one, name in zip(known, made.stdout.splitlines(), strict=True):
        assert name == one.name or (one.kind == "cuda" and name.startswith(f"{one.name}_"))


def test_constants_are_counted() -> None:
    """A line that lacks one makes nothing."""
    with pytest.raises(UnknownNameError):
        rebuild("Cf4IBroadcastADf4OMultiplyCB_CV_f4_15689223909178048092_contiguous", [])


@pytest.mark.parametrize(
    "name",
    [
        "gather_bfloat16_int32_1",
        "gather_float32_uint32_2",
        "gather_axis_float16_int32",
        "scatter_float32_int32_Sum_1",
        "scatter_float32_int32_None_1",
        "scatter_bfloat16_int32_Max_2",
        "scatter_axis_float32_int32_Sum",
        "scatter_axis_float32_int32_None",
    ],
)
def test_indexing_runs(name: str) -> None:
    """Which kernel it is, only a GPU shows."""
    make_kernel(name, [])
