"""Quantizing a language model when it is loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.load.test_quantized_folders import quantize
from tests.training import make_trainable
from vlora.errors import ModelError


def test_quantized_folder_is_not_quantized_again(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A recipe that asks for it is told what the folder is."""
    packed = quantize(checkpoint("qwen3_vl"), tmp_path / "packed", "mxfp4")
    with pytest.raises(ModelError, match=r"model.quantize_bits: .* is quantized already \(4 bits, mxfp4\)"):
        make_trainable(packed, model__quantize_bits=4)
