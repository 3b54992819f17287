"""Random models in folders as published ones are, which every side opens with its own loader."""

import json
import math
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_vlm.models import qwen3_vl

from .shapes import Shape

GROUP_SIZE = 64
PUBLISHED_NAMES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.visual."),
)
"""mlx-vlm's names to those of published weights."""

PATCHES_WEIGHT = "model.visual.patch_embed.proj.weight"


def draw_folder(shape: Shape, folder: Path, *, dtype: mx.Dtype, bits: int | None = None) -> Path:
    """Write a model with random weights, unless it is there.

    Args:
        shape: Its sizes.
        folder: Where; made if need be.
        dtype: Of what is not quantized.
        bits: The language model's, head and embeddings included. Packed weights are drawn as they are, from no
            floating-point ones before them: a model of 8 billion is there in seconds.

    Returns:
        The folder.
    """
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # from_dict writes into its argument. Nothing of this model is ever computed but its shapes: MLX is lazy.
    model = qwen3_vl.Model(qwen3_vl.ModelConfig.from_dict(shape.config()))
    if bits is not None:
        nn.quantize(model.language_model, group_size=GROUP_SIZE, bits=bits)
    config = shape.config()
    names = [name for name, _ in tree_flatten(model.parameters())]
    keys = dict(zip(names, mx.random.split(mx.random.key(0), len(names)), strict=True))

    def draw(name: str, value: mx.array) -> mx.array:
        return _draw(name, value.shape, keys[name], dtype, None if "tower" in name else bits)

    weights = dict(tree_flatten(tree_map_with_path(draw, model.parameters())))
    if bits is None:
        weights = {_publish(name): value for name, value in weights.items()}
        # Published convolutions have their channels second.
        weights[PATCHES_WEIGHT] = weights[PATCHES_WEIGHT].transpose(0, 4, 1, 2, 3)
    else:
        config["quantization"] = {"group_size": GROUP_SIZE, "bits": bits}
    layout = "pt" if bits is None else "mlx"
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": layout})
    # Last: a folder with a configuration counts as whole.
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def _draw(name: str, shape: tuple[int, ...], key: mx.array, dtype: mx.Dtype, bits: int | None) -> mx.array:
    """Draw matrices scaled by their width; norms are ones, biases zero."""
    kind = name.rpartition(".")[2]
    if bits is not None and kind in ("scales", "biases"):
        # Evenly spaced levels with the variance of the matrices that are not packed.
        width = shape[-1] * GROUP_SIZE
        level = (12 / (4**bits - 1) / width) ** 0.5
        return mx.full(shape, level if kind == "scales" else -level * (2**bits - 1) / 2, dtype=dtype)
    if len(shape) == 1:
        return mx.full(shape, 0 if kind == "bias" else 1, dtype=dtype)
    if bits is not None:
        halves = mx.random.randint(0, 2**16, (*shape[:-1], 2 * shape[-1]), dtype=mx.uint16, key=key)
        return halves.view(mx.uint32)
    scale: float = math.prod(shape[1:]) ** -0.5
    return (mx.random.normal(shape, key=key, dtype=dtype) * scale).astype(dtype)


def _publish(name: str) -> str:
    return next((new + name[len(own) :] for own, new in PUBLISHED_NAMES if name.startswith(own)), name)
