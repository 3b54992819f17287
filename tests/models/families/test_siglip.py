"""SigLIP towers have the configured epsilon."""

import mlx_vlm
import pytest

from tests.models.families.test_gemma import Checkpoint
from vlora.models.families.siglip import fix_siglip


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_epsilon_of_the_last_norm(family: str, checkpoint: Checkpoint) -> None:
    """The tower's last norm has the configured epsilon, not MLX's (gemma3/vision.py:87, paligemma/vision.py:87)."""
    module, _ = mlx_vlm.load(str(checkpoint(family)))
    norm = module.vision_tower.vision_model.post_layernorm

    assert norm.eps == 1e-5
    fix_siglip(module)
    assert norm.eps == module.config.vision_config.layer_norm_eps == 1e-6
