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
    mx.float32: "b19b0f2cc1172bcc555126ff0c0e7db31976f4270695455b41945158a00fa801",
    mx.bfloat16: "4a48159f9010c47564a350147c064881ce5d688fdca063950d01e0d71f3b4306",
    mx.float16: "55ca0597e4d29bc25c38b76cfb32b74f2859edd3b02085c1c9abf7f25f012b57",
}
"""SHA-256 of all that NVRTC is given, by the arrays' type: with a new kernel it is another."""

BY_MLX = "68e89d91adb84b976167f37f64db719d421b464205ff9bc03719e1c03f7227bc"
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
