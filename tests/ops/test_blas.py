"""Which BLAS MLX gets."""

import sys
from pathlib import Path

import pytest

from vlora.ops import blas


def test_it_may_be_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, and on systems whose MLX has a fast one."""
    monkeypatch.setenv(blas.SWITCH, "off")
    assert blas.load_fast_blas() is None

    monkeypatch.delenv(blas.SWITCH)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert blas.load_fast_blas() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only there is one loaded")
def test_a_library_that_lacks_a_function_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that is none, nor one that is not there."""
    (tmp_path / "none.so").write_bytes(b"no library")
    for library in ("libc.so.6", str(tmp_path / "none.so"), str(tmp_path / "missing.so")):
        monkeypatch.setenv(blas.SWITCH, library)
        assert blas.load_fast_blas() is None


def test_only_the_reference_blas_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another MLX keeps what it came with; candidates are tried in their order."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(blas.SWITCH, raising=False)
    monkeypatch.setattr(blas, "_mlx_has_reference_blas", lambda: False)
    monkeypatch.setattr(blas, "_candidates", lambda: pytest.fail("libraries were looked for"))
    assert blas.load_fast_blas() is None
