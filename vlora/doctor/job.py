"""The training job of the checks: the tiny model, and rows that are written into a folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ..build import BUILTIN_MODEL, load_data, load_model
from ..data.collate import collate
from ..data.readers.digits import load_digit_rows
from ..errors import RecipeError
from ..recipe.parse import parse_recipe
from ..recipe.schema import Recipe
from ..types import Batch

SIZES = ((32, 32), (48, 32), (32, 64), (64, 64), (40, 56))
"""Widths and heights of the images of the run."""

N_STEPS, BATCH_SIZE, SAVE_EVERY = 12, 4, 4

TRAINED: Mapping[str, Any] = {"model.full_finetune": True, "model.train_vision": True}
"""Settings of the run and of the compared steps, which train everything; on a CPU they share compiled kernels."""


def make_recipe(folder: Path, keys: Mapping[str, Any]) -> Recipe:
    """Write rows into a folder and make a recipe of them and the tiny model; it trains a LoRA by default."""
    return parse_recipe(
        "",
        {
            "model.path": BUILTIN_MODEL,
            "data.path": str(_write_rows(folder)),
            "data.train_on_completions": True,
            "optim.name": "adamw",
            "optim.learning_rate": 1e-3,
            "train.batch_size": BATCH_SIZE,
            "train.steps_per_report": 1,
            "features.path": str(folder / "features"),
            "output.path": str(folder / "run" / "adapters.safetensors"),
            **keys,
        },
    )


def _write_rows(folder: Path) -> Path:
    """Write questions about digits and images of several sizes, unless they exist already."""
    file = folder / "rows.jsonl"
    if file.is_file():
        return file
    lines = []
    for number, row in enumerate(_find_rows()[: N_STEPS * BATCH_SIZE]):
        name = f"{number:03d}.png"
        row["image"].resize(SIZES[number % len(SIZES)]).save(folder / name)
        lines.append(json.dumps({**row, "image": name}))
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def _find_rows() -> list[dict[str, Any]]:
    try:
        return load_digit_rows("train", None)
    except RecipeError:
        # Without scikit-learn the digits are drawn.
        return [_draw(number) for number in range(N_STEPS * BATCH_SIZE)]


def _draw(number: int) -> dict[str, Any]:
    image = Image.new("RGB", (32, 32))
    ImageDraw.Draw(image).text((4 + number % 5, number % 4), str(number % 10), fill="white", font_size=24)
    return {"image": image, "question": "Which digit is this?", "answer": str(number % 10)}


def load_batch(recipe: Recipe, numbers: Sequence[int]) -> tuple[Batch, Any]:
    """Return a batch of the rows with these numbers, and the model."""
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    return encode_batch(recipe, numbers), backbone


def encode_batch(recipe: Recipe, numbers: Sequence[int]) -> Batch:
    """Return a batch of the rows with these numbers."""
    data = load_data(recipe)
    samples = [data.train[number] for number in numbers]
    return collate([data.encoder(sample) for sample in samples], len(samples))
