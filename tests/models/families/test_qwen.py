"""Qwen3-VL's mixtures have the published activations while they embed."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from vlora.models.families.qwen import match_reference_qwen3_activations


def test_qwen3_mixtures_have_the_published_activations(model: Callable[[str], nn.Module]) -> None:
    """The layers' activation is approximate, the mergers' exact, as in the dense Qwen3-VL; and only for a while."""
    mixture, dense = model("qwen3_vl_moe"), model("qwen3_vl")

    def activations(module: nn.Module) -> set[tuple[bool, bool]]:
        found = {name: part for name, part in module.named_modules() if isinstance(part, nn.GELU)}
        points = mx.linspace(-3, 3, 64)
        return {(".blocks." in name, bool(mx.allclose(part(points), nn.gelu(points)))) for name, part in found.items()}

    before = activations(mixture)
    with match_reference_qwen3_activations(mixture):
        assert activations(mixture) == {(True, False), (False, True)} == activations(dense)
    assert activations(mixture) == before
