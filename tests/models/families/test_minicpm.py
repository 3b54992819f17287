"""MiniCPM-V's mergers compute the activations of the reference while they embed."""

import mlx.core as mx
import numpy as np
import pytest

from tests.families import FAMILIES, build
from vlora.models.families import minicpm


@pytest.mark.parametrize("name", minicpm.FAMILIES)
def test_the_merger_has_the_exact_activation(name: str) -> None:
    """The exact GELU while it embeds, mlx-vlm's own before and after; the window merger keeps its approximation."""
    module = build(FAMILIES[name])
    block, window = module.merger.mlp[0], module.vit_merger.act
    x = mx.linspace(-3, 3, 256).reshape(2, 128)
    before = block(x)
    hidden = block.linear_1(block.pre_norm(x))
    exact = block.linear_2(hidden * (1 + mx.erf(hidden / 2**0.5)) / 2)
    approximated = window(x)
    override = minicpm.FAMILIES[name].forward.embed_overrides
    assert override is not None
    with override(module):
        corrected = block(x)
        assert mx.array_equal(window(x), approximated)

    assert np.allclose(np.array(corrected), np.array(exact), atol=1e-6)
    assert mx.array_equal(block(x), before)
    assert not np.allclose(np.array(before), np.array(exact), atol=1e-6)
