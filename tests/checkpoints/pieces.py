"""Pieces of config.json and preprocessor_config.json, and of checkpoints' layouts, that families share."""

import re
from collections.abc import Callable

from .layout import VOCAB_SIZE, Weights

CLIP_STATS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
HALF_STATS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
DO_ALL = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "rescale_factor": 1 / 255,
}
TEXT = {
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB_SIZE,
}
VIT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 8,
}
SIGLIP = {**VIT, "model_type": "siglip_vision_model", "vision_use_head": False}


def publishing(
    *renames: tuple[str, str],
    channels_first: str = r"patch_embed\w*\.(proj(ection)?\.)?weight$",
    dropped: str | None = None,
) -> Callable[[Weights], Weights]:
    """Make what gives parameters the names and layouts of a published checkpoint.

    Args:
        renames: Patterns and replacements, applied in order.
        channels_first: Matches the names, as mlx-vlm has them, of convolutions that torch has the channels of first.
        dropped: Matches the names, as mlx-vlm has them, of what is not published.
    """

    def publish(weights: Weights) -> Weights:
        published: Weights = {}
        for name, value in weights.items():
            if dropped and re.search(dropped, name):
                continue
            if value.ndim > 2 and re.search(channels_first, name):
                value = value.moveaxis(-1, 1)  # noqa: PLW2901
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)  # noqa: PLW2901
            published[name] = value
        return published

    return publish
