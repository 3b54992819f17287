"""The checks of operations find what is wrong."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.checking import outcome_of, scaled
from vlora.doctor import ops
from vlora.errors import CheckError
from vlora.ops import functional


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A gradient is checked apart from the result."""

    def rotate(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
        rotated = mx.stop_gradient(functional._rotated(x, cosines, sines))
        return rotated + (x - mx.stop_gradient(x))

    monkeypatch.setattr(functional, "rotate", rotate)

    assert "the gradient of input 1 in float32" in outcome_of("rotations", tmp_path).found


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (mx.fast, "scaled_dot_product_attention", "attention"),
        (functional, "rms_norm", "RMS norm"),
        (ops, "frozen_linear", "4-bit weights"),
        (ops, "loss_fn", "the loss"),
    ],
)
def test_each_check_looks_at_what_it_names(
    module: Any, function: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fault of a few hundredths in what a check is about is not taken for rounding."""
    own = getattr(module, function)
    is_pair = name == "the loss"
    wrong = (lambda *args: (own(*args)[0] * 1.05, 0)) if is_pair else scaled(own)
    monkeypatch.setattr(module, function, wrong)

    assert not outcome_of(name, tmp_path).is_ok


def test_kernels_are_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A CUDA machine's check, run here on what takes the kernels' place, holds; and finds a fault."""
    assert "float32" in ops.check_kernels(tmp_path)

    monkeypatch.setattr(functional, "rms_norm", scaled(functional.rms_norm))

    with pytest.raises(CheckError, match="norm in float32"):
        ops.check_kernels(tmp_path)
