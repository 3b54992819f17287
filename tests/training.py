"""Shared by the tests of the step and of the driver: tiny real models, rows, random adapters."""

from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from PIL import Image

from vlora import Example, Recipe, TrainState, format_sample, init_state, make_optimizer, models, parse_recipe
from vlora.build import load_model
from vlora.models.families.family import Family


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw noise, so that every image is another one."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mixed_rows() -> list[dict[str, Any]]:
    """Rows that a batch has to keep apart: one image, two of other sizes in two turns, none."""
    return [
        {"image": picture(48, 32, 1), "question": "What is it?", "answer": "a red square"},
        {
            "images": [picture(48, 32, 2), picture(32, 64, 3)],
            "messages": [
                {"role": "user", "content": "<image>How many <image> are there?"},
                {"role": "assistant", "content": "three"},
                {"role": "user", "content": "And now?"},
                {"role": "assistant", "content": "yes or no."},
            ],
        },
        {"question": "Say hi", "answer": "hi hi there"},
    ]


def rows_for(family: Family) -> list[dict[str, Any]]:
    """Rows that a family reads: `mixed_rows`, or one question each with images, where the prompt sees itself whole."""
    if not family.format.is_prefix_lm:
        return mixed_rows()
    return [
        mixed_rows()[0],
        {"images": [picture(48, 32, 2), picture(32, 64, 3)], "prefix": "How many are there?", "suffix": "three"},
        {"image": picture(40, 40, 4), "prefix": "answer", "suffix": "yes or no, the sky"},
    ]


@attrs.define(eq=False)
class Trainable:
    """A tiny model made trainable, and its rows encoded."""

    recipe: Recipe
    backbone: models.MlxVlmBackbone
    examples: list[Example]
    state: TrainState
    optimizer: Any
    config: dict[str, Any]


def make_trainable(folder: Path, **overrides: Any) -> Trainable:
    """Open a checkpoint as a recipe would.

    Args:
        folder: As `build_checkpoint` makes it.
        overrides: Recipe keys with `__` for the dot.
    """
    keys = {name.replace("__", "."): value for name, value in overrides.items()}
    keys = {"model.path": str(folder), "data.path": "x", "data.train_on_completions": True, **keys}
    recipe = parse_recipe("", keys)
    files = models.find_model(recipe.model)
    processor = models.load_processor(files, recipe.model)
    encoder = models.make_encoder(processor, files.config, files.family, recipe.data).with_image_keys()
    examples = [encoder(format_sample(row, f"row {number}")) for number, row in enumerate(rows_for(files.family))]
    backbone, config = load_model(recipe, files)
    optimizer = make_optimizer(recipe.optim)
    state = init_state(backbone, optimizer)
    params = {name: randomize(name, value) for name, value in state.params.items()}
    return Trainable(recipe, backbone, examples, state._replace(params=params), optimizer, config)


def randomize(name: str, value: mx.array) -> mx.array:
    """Fill B, which starts at zero, so that every gradient and every adapter counts."""
    if not name.endswith("lora_b"):
        return value
    return 0.1 * mx.random.normal(value.shape, key=mx.random.key(sum(map(ord, name))))
