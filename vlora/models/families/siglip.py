"""SigLIP towers, as several families have them. Files and lines are those of mlx-vlm 0.7.10."""

import mlx.nn as nn


def fix_siglip(module: nn.Module) -> None:
    """Give a SigLIP tower's last norm the configured epsilon.

    mlx-vlm leaves it at MLX's 1e-5 (gemma3/vision.py:87, paligemma/vision.py:87).
    """
    tower = module.vision_tower.vision_model
    tower.post_layernorm.eps = module.config.vision_config.layer_norm_eps
