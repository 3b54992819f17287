"""Kernels made again from their names; a stand-in for the compiler shows which ones MLX would have compiled."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from benchmarks.kernels import list_constants, list_folder
from vlora.compilation import rebuild
from vlora.compilation.known_kernels import Known, read_known
from vlora.compilation.rebuild import UnknownNameError, kernel_file, parse_constant, parse_name, write_sources

on_cpu = pytest.mark.skipif(
    shutil.which("g++") is None or mx.default_device() != mx.Device(mx.cpu), reason="needs MLX's compiler for a CPU"
)
UNIQUE = Known(
    "cpu",
    "Cf4ITanADf4IBroadcastBEf4OPowerCD_VC_f4_16169618391750214255_contiguous",
    "",
    ("float32 0.731058478",),
)
"""That nothing else makes."""


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


x, y = mx.arange(6.0), mx.arange(4.0)
mx.eval(x, y)
FUNCTIONS: dict[str, tuple[Callable, list[mx.array]]] = {
    "broadcasts": (mx.compile(outer), [x, y]),
    "several outputs": (mx.compile(adam), [x, x + 1, x + 2]),
    "any shape": (mx.compile(lambda x, y: nn.relu(x) * 1.37 + mx.erf(y), shapeless=True), [x, x]),
    "strided": (mx.compile(lambda x: mx.tanh(x * 0.23) * x), [mx.ones((4, 6, 4))[::2, ::3, ::2]]),
    "types": (
        mx.compile(lambda x, i: x.astype(mx.float32) * 2.31 + (i // 3).astype(mx.float32)),
        [x.astype(mx.bfloat16), mx.arange(6)],
    ),
    "no axes": (mx.compile(lambda x, y: mx.minimum(x / 3.1, mx.logaddexp(x, y))), [mx.array(1.5), mx.array(2.5)]),
    "names of two letters": (mx.compile(many), [x + k for k in range(8)]),
}


@pytest.fixture
def would_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give the sources that MLX would compile for what `run` evaluates."""

    def sources(run: Callable[[], None], names: list[str] | None = None) -> dict[str, str]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        root.mkdir()
        with monkeypatch.context() as patch:
            patch.setenv("TMPDIR", str(root))
            patch.setattr(rebuild, "make_kernel", lambda *_: run())
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
def test_a_name_makes_the_kernel_again(case: str, would_compile) -> None:
    """To the last letter of its source."""
    function, arrays = FUNCTIONS[case]
    mx.eval(arrays)
    wanted = would_compile(lambda: mx.eval(function(*arrays)))
    assert wanted

    for name, source in wanted.items():
        constants = [parse_constant(text) for text in list_constants(source)]
        run, tiny = rebuild.rebuild(name, constants)
        assert would_compile(lambda run=run, tiny=tiny: mx.eval(run(*tiny))) == {name: source}


MAKE_ALL = """
import importlib.util, json, pathlib, sys
spec = importlib.util.spec_from_file_location("rebuild", sys.argv[1])
rebuild = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rebuild)
root = pathlib.Path(sys.argv[2])
for line in sys.stdin.read().splitlines():
    for file in root.rglob("*.cpp"):
        file.unlink()
    rebuild.write_sources([json.loads(line)], root)
    print(*(rebuild.ENTRY.search(file.read_text())[1] for file in root.rglob("*.cpp")))
"""


@on_cpu
def test_every_known_kernel_is_made_again(tmp_path: Path) -> None:
    """By this version of MLX, in a process that has loaded none; a GPU's names are a CPU's but for the layout."""
    known = [one for one in read_known() if not rebuild.INDEXING.fullmatch(one.name)]
    made = subprocess.run(
        [sys.executable, "-c", MAKE_ALL, rebuild.__file__, str(tmp_path)],
        input="\n".join(one.line for one in known),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )

    assert len([one for one in known if one.kind == "cpu"]) > 100
    for one, name in zip(known, made.stdout.splitlines(), strict=True):
        assert name == one.name or (one.kind == "cuda" and name.startswith(f"{one.name}_"))


@on_cpu
def test_all_of_a_list_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With MLX's own options; what cannot be made is left out."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sources, words = write_sources([["Cf4IAddAB_VV_f4f4_1", "", []], json.loads(UNIQUE.line)], tmp_path)

    assert list(sources) == [UNIQUE.name]
    assert "-shared" in words


def test_what_a_name_says() -> None:
    """Inputs, types and operations, in order."""
    kernel = parse_name("Cf4IBroadcastADf4OMultiplyCB_CV_f4_15689223909178048092_strided_3")

    assert kernel.kinds == "CV"
    assert kernel.dtypes == (mx.float32,)
    assert [(node.operation, node.inputs, node.is_output) for node in kernel.nodes] == [
        ("Broadcast", (0,), False),
        ("Multiply", (2, 1), True),
    ]
    assert kernel.n_axes == 3


@pytest.mark.parametrize(
    "name",
    ["", "gather_float32", "Cf4IFoldADf4OMultiplyCB_CV_f4_1_contiguous", "Cf4IAddAB_VV_f4f4_1", "Cf4OAddAB_VV_f4_1"],
)
def test_other_names_are_refused(name: str) -> None:
    """Unknown operations, no output, too few types."""
    with pytest.raises(UnknownNameError):
        parse_name(name)


def test_constants_are_counted() -> None:
    """A line that lacks one makes nothing."""
    with pytest.raises(UnknownNameError):
        rebuild.rebuild("Cf4IBroadcastADf4OMultiplyCB_CV_f4_15689223909178048092_contiguous", [])


@pytest.mark.parametrize(
    ("text", "value"),
    [("float32 0.5", 0.5), ("int32 -3", -3), ("bool true", True), ("bfloat16 -INFINITY", -float("inf"))],
)
def test_constants_are_read(text: str, value: float) -> None:
    """As MLX prints them."""
    assert parse_constant(text)[1] == value
    assert str(parse_constant(text)[0]).removeprefix("mlx.core.").startswith(text.split(maxsplit=1)[0])


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
    rebuild.make_kernel(name, [])


def test_files_are_named_as_mlx_does() -> None:
    """A name that is too long is cut and hashed on a CPU, and goes on in folders on a GPU."""
    assert kernel_file("cpu", "short") == Path("libshort.so")
    assert kernel_file("cpu", "x" * 300, "00ff") == Path(f"lib{'x' * 229}_00ff.so")
    assert kernel_file("cuda", "short") == Path("short.ptx")
    assert kernel_file("cuda", "x" * 245) == Path(f"{'x' * 245}.ptx")
    assert kernel_file("cuda", "x" * 500) == Path("x" * 245, "x" * 245, f"{'x' * 10}.ptx")


def test_kernels_of_a_gpu_are_moved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code last; one that cannot be made is passed over."""
    root, common = tmp_path / "root", tmp_path / "common"
    root.mkdir()
    moved: list[str] = []
    replace = Path.replace

    def compile_it(name: str, _: object) -> None:
        if name == "bad":
            raise UnknownNameError(name)
        for suffix in (".ptx", ".txt", ".cu"):
            file = (root / kernel_file("cuda", name)).with_suffix(suffix)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(name)

    def note(file: Path, target: Path) -> Path:
        moved.append(file.suffix)
        return replace(file, target)

    monkeypatch.setattr(rebuild, "make_kernel", compile_it)
    monkeypatch.setattr(Path, "replace", note)
    rebuild.compile_each([("bad", "", []), ("short", "", []), ("x" * 300, "", [])], root, common)

    assert moved == [".txt", ".cu", ".ptx"] * 2
    assert {str(file.relative_to(common)) for file in common.rglob("*.ptx")} == {
        str(kernel_file("cuda", name)) for name in ("short", "x" * 300)
    }


def test_a_worker_leaves_what_another_has_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are claimed by files."""
    taken: list[str] = []
    monkeypatch.setattr(rebuild, "compile_each", lambda listed, *_: taken.extend(name for name, _, _ in listed))
    (tmp_path / "2").touch()
    lines = [json.dumps([name, "", []]) for name in "abcde"]
    rebuild.work("cuda", tmp_path, tmp_path, tmp_path, lines, 2)

    assert taken == ["a", "b", "e"]


def test_a_worker_ends_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it any more."""
    parents = iter([7, 7, 1])
    taken: list[str] = []
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(rebuild, "compile_each", lambda listed, *_: taken.extend(name for name, _, _ in listed))
    rebuild.work("cuda", tmp_path, tmp_path, tmp_path, [json.dumps([name, "", []]) for name in "abc"], 1)

    assert taken == ["a"]
