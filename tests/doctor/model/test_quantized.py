"""The model quantized to 4 bits."""

from typing import Any

import mlx.core as mx
import pytest
from mlx import nn

from tests.checking import subject_of, unchanged, with_forward
from vlora.doctor.model.quantized import check_quantized
from vlora.doctor.model.subject import LeftOut
from vlora.errors import CheckError
from vlora.models.load import loading
from vlora.models.load.quantize import quantize_language


def test_it_is_quantized_as_a_run_quantizes_it() -> None:
    """Adapters learn on it, and its logits are those of the unpacked weights; a second time there is nothing to do."""
    subject = subject_of("llava")

    found = str(check_quantized(subject))

    assert "16 layers with model.quantize_group_size = 32" in found or "16 layers;" in found
    assert "from unpacked weights" in found


def test_a_model_that_is_quantized_already_is_left_out() -> None:
    """It says how."""
    subject = subject_of("llava")
    for layer in subject.backbone.module.language_model.model.layers:
        layer.mlp.gate_proj.linear = layer.mlp.gate_proj.linear.to_quantized(group_size=32, bits=8)

    found = check_quantized(subject)

    assert isinstance(found, LeftOut)
    assert "is quantized already (8 bits, affine)" in found.reason


class Wrong(nn.QuantizedLinear):
    """A layer whose products are a fifth too large."""

    def __call__(self, x: mx.array) -> mx.array:
        """Multiply."""
        return 1.2 * super().__call__(x)


def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were packed wrong give other logits than those that they hold."""
    own = quantize_language

    def quantize(module: nn.Module, *given: Any) -> dict[str, Any]:
        found = own(module, *given)
        for _, layer in module.named_modules():
            if type(layer) is nn.QuantizedLinear:
                layer.__class__ = Wrong
        return found

    monkeypatch.setattr(loading, "quantize_language", quantize)

    subject = subject_of("llava")
    with_forward(subject, unchanged, eager="a kernel is compiled for nothing")

    with pytest.raises(CheckError, match=r"logits of 4-bit weights change by .* when the same weights are unpacked"):
        check_quantized(subject)
