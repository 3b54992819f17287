"""The CUDA sources are what compiled code is kept under on users' machines: no character of them changes unnoticed."""

import hashlib
from typing import Any

import mlx.core as mx
import pytest

from tests.ops.test_nvrtc import Counting, cache, call_all, compiler, launched  # noqa: F401 - fixtures
from vlora.ops import nvrtc
from vlora.ops.cuda_sources import FOLDER, read_source
from vlora.system.package import source_files

COMPILED = {
    mx.float32: "ff00edd599ab37f1c490c0a78541aefd366c8755130d743c782b2ccd1a6b4059",
    mx.bfloat16: "cbeacb2a8e7c54b4b8a288db95d7571e1ec3c07b19cddd5d3f15af92bcfe888f",
    mx.float16: "9fe61c1159d8a4957eff9c288a5c3d481aa2cc9fcd39ff209e684fa895d5147b",
}
"""SHA-256 of all that NVRTC is given, by the arrays' type: with a new kernel it is another."""

BY_MLX = "3f10da4f6a7f37e82df32a8ae40fe12b3deb065a0c6c4e5015c2e4ee2ef25350"
"""Likewise of what `mx.fast.cuda_kernel` is given."""


def digest(parts: list[str]) -> str:
    """Give the SHA-256 of texts, each ended by a byte that no text has."""
    return hashlib.sha256(b"".join(part.encode() + b"\0" for part in parts)).hexdigest()


@pytest.mark.parametrize("dtype", COMPILED, ids=str)
@pytest.mark.usefixtures("launched")
def test_nvrtc_compiles_what_it_always_did(compiler: Counting, dtype: mx.Dtype) -> None:  # noqa: F811
    """Else code that is kept would be compiled anew."""
    call_all(dtype)

    assert digest(compiler.sources) == COMPILED[dtype]


def test_mlx_compiles_what_it_always_did(launched: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Body and header of every kernel, where NVRTC is not found."""
    monkeypatch.setattr(nvrtc, "find_compiler", lambda: None)
    call_all(mx.bfloat16)

    assert digest([text for launch in launched for text in (launch["source"], launch["header"])]) == BY_MLX
    numbers = [value for launch in launched for _, value in launch["template"] if isinstance(value, int)]
    # They are a part of the kernel's name.
    assert min(numbers) >= 0


def test_sources_count_as_code() -> None:
    """Kept features are made anew when a kernel changes; no file lies unused."""
    files = sorted(FOLDER.glob("*.cu"))

    assert files
    assert set(files) <= set(source_files())
    for file in files:
        assert read_source(file.stem) == "\n" + file.read_text(encoding="utf-8")
