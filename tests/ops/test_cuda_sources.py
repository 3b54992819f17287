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
    mx.float32: "8b8055e6547ccf372f7f7cf5d519949eac6994682fecfcc56b7ac1d24eda7a60",
    mx.bfloat16: "0f9cba0ee15f009815012ad822857e721b24f24092c210b12a621fd0fac4dae9",
    mx.float16: "aaa65d2bd295825430072f2900c49d738befdc556d2f701ff782983b84734ca0",
}
"""SHA-256 of all that NVRTC is given, by the arrays' type, as it was while the sources were strings in Python."""

BY_MLX = "0a94f1bd8bfdee269e978e68fb120bc80af69803d16459666e46d5d90e2cef0b"
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


def test_sources_count_as_code() -> None:
    """Kept features are made anew when a kernel changes; no file lies unused."""
    files = sorted(FOLDER.glob("*.cu"))

    assert files
    assert set(files) <= set(source_files())
    for file in files:
        assert read_source(file.stem) == "\n" + file.read_text(encoding="utf-8")
