"""Workers: what they take, what they compile together, and when they stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compilation.test_rebuild import on_cpu
from vlora.compilation import worker
from vlora.compilation.kernel_list import Known
from vlora.compilation.kernel_names import UnknownNameError, kernel_file
from vlora.compilation.worker import write_sources

UNIQUE = Known(
    "cpu",
    "Cf4ITanADf4IBroadcastBEf4OPowerCD_VC_f4_16169618391750214255_contiguous",
    "",
    ("float32 0.731058478",),
)
"""That nothing else makes."""


@on_cpu
def test_all_of_a_list_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With MLX's own options; what cannot be made is left out."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sources, words = write_sources([["Cf4IAddAB_VV_f4f4_1", "", []], json.loads(UNIQUE.line)], tmp_path)

    assert list(sources) == [UNIQUE.name]
    assert "-shared" in words


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

    monkeypatch.setattr(worker, "make_kernel", compile_it)
    monkeypatch.setattr(Path, "replace", note)
    worker.compile_each([("bad", "", []), ("short", "", []), ("x" * 300, "", [])], root, common)

    assert moved == [".txt", ".cu", ".ptx"] * 2
    assert {str(file.relative_to(common)) for file in common.rglob("*.ptx")} == {
        str(kernel_file("cuda", name)) for name in ("short", "x" * 300)
    }


def test_a_worker_leaves_what_another_has_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are claimed by files."""
    taken: list[str] = []
    monkeypatch.setattr(worker, "compile_each", lambda listed, *_: taken.extend(name for name, _, _ in listed))
    (tmp_path / "2").touch()
    lines = [json.dumps([name, "", []]) for name in "abcde"]
    worker.work("cuda", tmp_path, tmp_path, tmp_path, lines, 2)

    assert taken == ["a", "b", "e"]


def test_a_worker_ends_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles nothing that no run needs."""
    parents = iter([7, 7, 1])
    taken: list[str] = []
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(worker, "compile_each", lambda listed, *_: taken.extend(name for name, _, _ in listed))
    worker.work("cuda", tmp_path, tmp_path, tmp_path, [json.dumps([name, "", []]) for name in "abc"], 1)

    assert taken == ["a"]


PROGRAM = Path(worker.__file__).with_name("__main__.py")
LOADED = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_worker_imports_nothing_but_mlx(tmp_path: Path) -> None:
    """It begins at once: neither vlora nor what vlora imports is loaded."""
    words = [PROGRAM, "cpu", tmp_path, tmp_path, tmp_path, 1]
    found = subprocess.run(
        [sys.executable, "-P", "-c", LOADED, *map(str, words)],
        input="",
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()

    assert {"vlora_compilation", "mlx"} <= set(found)
    assert not {"vlora", "attrs", "attr", "numpy", "transformers", "datasets"} & set(found)
