"""Where kernels are kept, and the workers that compile the known ones."""

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from vlora.cli.screen import Screen
from vlora.cli.view import EventView
from vlora.compilation import kernel_list, known_kernels
from vlora.compilation.kernel_folder import CUDA_FOLDER, keep_kernels
from vlora.compilation.kernel_list import Known
from vlora.compilation.known_kernels import begin, weights_type
from vlora.events import Compiled, Compiling
from vlora.system.cache import KERNELS_VARIABLE
from vlora.system.private import make_private

NAME = "Cf4IBroadcastADf4OMultiplyCB_CV_f4_15689223909178048092_contiguous"
"""A number times an array."""


def forget() -> None:
    """Let the process begin anew."""
    known_kernels._begin_for.cache_clear()
    known_kernels.keep.cache_clear()


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process as it was."""
    for variable in ("TMPDIR", CUDA_FOLDER):
        # Both lines, so that it is put back, whether it was there or not.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path / "kernels"))
    forget()
    yield
    forget()


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it would be executed; the run says so and has one for itself."""
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    folder, note = keep_kernels("cpu")

    assert "belongs to another user" in str(note)
    assert tmp_path not in folder.parents
    assert not list((tmp_path / "kernels").glob("*/*"))
    assert "belongs to another user" in str(begin().note)
    assert begin().announced is None


def test_others_lose_the_right_to_write(tmp_path: Path) -> None:
    """Where a folder was made with more rights."""
    tmp_path.chmod(0o777)

    assert make_private(tmp_path) is None
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.parametrize(("dtype", "found"), [(mx.bfloat16, "BF16"), (mx.float32, "F32"), (mx.float16, "F16")])
def test_the_type_of_weights_is_in_their_file(dtype: mx.Dtype, found: str, tmp_path: Path) -> None:
    """That of most arrays; and nothing is said of what cannot be read."""
    arrays = {"a": mx.zeros((2,), dtype), "b": mx.zeros((3,), dtype), "c": mx.zeros((1,), mx.int32)}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays, metadata={"format": "mlx"})

    assert weights_type(str(tmp_path)) == found
    assert weights_type("builtin:tiny-qwen3-vl") == "F32"
    assert weights_type("somebody/model") == ""
    assert weights_type("~nosuchuser/model") == ""
    for content in (b"no header", b"", (2).to_bytes(8, "little") + b"[]", (10**5).to_bytes(8, "little") + b"[" * 10**5):
        (tmp_path / "a.safetensors").write_bytes(content)
        assert weights_type(str(tmp_path)) == ""


@pytest.mark.skipif(
    shutil.which("g++") is None or mx.default_device() != mx.Device(mx.cpu), reason="needs MLX's compiler for a CPU"
)
def test_workers_compile_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that needs such a kernel compiles nothing, and a second run starts no worker."""
    listed = [Known("cpu", NAME, "", (f"float32 {value}",)) for value in ("0.371",)]
    monkeypatch.setattr(kernel_list, "read_known", lambda _: listed)
    # The name has the constant's hash; MLX itself says which one it is.
    program = "import mlx.core as mx; x = mx.ones(3); mx.eval(x, mx.compile(lambda x: 0.371 * x)(x))"
    folder, _ = keep_kernels("cpu")
    subprocess.run([sys.executable, "-c", program], check=True)
    (made,) = folder.glob("*.so")
    listed[0] = Known("cpu", made.stem.removeprefix("lib"), "", ("float32 0.371",))
    shutil.rmtree(folder)

    compilation = begin()
    assert compilation.announced == Compiling(n_kernels=1, n_workers=1)
    compiled = compilation.wait()
    assert compiled is not None
    assert (compiled.n_kernels, compiled.folder) == (1, folder)
    assert 0 < compiled.seconds < known_kernels.LONGEST_WAIT_S
    # Nothing is left of the work.
    assert len(list(folder.iterdir())) == 1
    assert compilation.wait() is None
    subprocess.run([sys.executable, "-c", program], check=True)
    assert [file.name for file in folder.glob("*.*") if file.is_file()] == [made.name]
    forget()
    assert begin().announced is None


def test_a_model_is_opened_with_kernels_of_the_users_own(tmp_path: Path) -> None:
    """Whoever trains without a run has a private folder, too."""
    known_kernels.keep()
    assert Path(os.environ.get("TMPDIR") or os.environ[CUDA_FOLDER]).parent == tmp_path / "kernels"


def test_the_wait_ends(tmp_path: Path) -> None:
    """A worker that hangs holds up nobody for good."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as worker:
        compilation = known_kernels.Compilation(tmp_path, None, [Path("none.so")], [worker])
        compilation.begun_s = time.time()
        try:
            ended = compilation.wait(0.2)
            assert ended is not None
            assert ended.n_kernels == 0
        finally:
            worker.kill()


def test_importing_changes_nothing() -> None:
    """Only a run does."""
    program = (
        "import os; import vlora, vlora.compilation.known_kernels; "
        f"assert os.environ.get('TMPDIR') is None and os.environ.get({CUDA_FOLDER!r}) is None"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_screen_says_what_is_compiled() -> None:
    """How many, how long it took, and where they are kept."""
    console = Screen(record=True, width=200)
    view = EventView(console)
    view.show(Compiling(n_kernels=31, n_workers=2))
    view.show(Compiled(n_kernels=31, seconds=12.44, folder=Path("/cache/kernels")))

    assert console.export_text().splitlines() == [
        "compiling 31 kernels, 2 at a time",
        "compiled 31 kernels in 12.4 s, kept in /cache/kernels",
    ]
