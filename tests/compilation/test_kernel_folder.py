"""The folder in which MLX keeps its kernels."""

import os
import stat
import tempfile
from pathlib import Path

import mlx.core as mx
import pytest

from vlora.compilation.kernel_folder import CUDA_FOLDER, keep_kernels
from vlora.compilation.kernel_list import MLX_VERSION
from vlora.system.cache import KERNELS_VARIABLE


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the process as it was."""
    for variable in ("TMPDIR", CUDA_FOLDER):
        # Both lines, so that it is put back, whether it was there or not.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path / "kernels"))


def test_kernels_are_kept_where_only_the_user_writes(tmp_path: Path) -> None:
    """In a folder of this version of MLX and this kind of machine; Python's temporary folder stays."""
    before = tempfile.gettempdir()
    folder, note = keep_kernels("cpu")

    root = Path(os.environ["TMPDIR"])
    assert note is None
    assert root.parent == tmp_path / "kernels"
    assert MLX_VERSION in root.name
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert folder == root / "mlx" / MLX_VERSION / "cpu"
    assert tempfile.gettempdir() == before
    assert CUDA_FOLDER not in os.environ


def test_a_gpu_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its architecture; one that the user has chosen stays."""
    monkeypatch.setattr(mx, "device_info", lambda _: {"architecture": "sm_90"})
    folder, note = keep_kernels("cuda")

    assert note is None
    assert os.environ[CUDA_FOLDER] == str(folder)
    assert folder == tmp_path / "kernels" / f"mlx-{MLX_VERSION}-cuda-sm_90"
    monkeypatch.setenv(CUDA_FOLDER, "/chosen")
    assert keep_kernels("cuda") == (Path("/chosen"), None)
