"""Whole runs on tiny real models, for the tests of many folders: rows, a recipe, the run, and what was learned."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from tests.training import picture
from vlora import Recipe, collate, fit, init_state, make_optimizer, parse_recipe
from vlora.build import load_data, load_model
from vlora.events import Event, StepReport
from vlora.output.checkpoint import load_state
from vlora.output.paths import STATE_NAME, output_paths
from vlora.train.state import bound_params
from vlora.types import Batch

N_ROWS = 7


def write_image_rows(folder: Path) -> Path:
    """Write `N_ROWS` rows with images of two sizes, one of them without; return the file."""
    file = folder / "rows.jsonl"
    lines = []
    for number in range(N_ROWS):
        row: dict[str, Any] = {
            "question": f"What is number {number}?",
            "answer": f"it is {'very ' * (number % 3)}{number}",
        }
        if number != 3:
            picture(32 + 16 * (number % 2), 32, number).save(folder / f"{number}.png")
            row["image"] = f"{number}.png"
        lines.append(json.dumps(row))
    file.write_text("\n".join(lines))
    return file


def make_recipe(model: Path, rows: Path, output: Path, **overrides: Any) -> Recipe:
    """Make a short run's recipe; overrides have `__` for the dot."""
    keys = {
        "model.path": str(model),
        "data.path": str(rows),
        "data.train_on_completions": True,
        "optim.learning_rate": 1e-2,
        "train.batch_size": 2,
        **({} if "train__epochs" in overrides else {"train.iters": 6}),
        "train.steps_per_report": 2,
        "train.steps_per_eval": 3,
        "train.steps_per_save": 2,
        "output.path": str(output),
    }
    return parse_recipe("", keys | {name.replace("__", "."): value for name, value in overrides.items()})


def run(recipe: Recipe, **options: Any) -> list[Event]:
    """Carry a recipe out."""
    return list(fit(recipe, **options))


def losses(events: list[Event]) -> list[float]:
    """List every step's loss."""
    return [event.loss for event in events if isinstance(event, StepReport)]


def trained_logits(recipe: Recipe) -> tuple[Batch, np.ndarray]:
    """Compute the logits of the first rows with the run's last training state."""
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    state = load_state(output_paths(recipe).folder / STATE_NAME, init_state(backbone, make_optimizer(recipe.optim)))
    batch = collate([data.encoder(data.train[index]) for index in range(2)])
    with bound_params(backbone.module, state.params), backbone.overrides():
        return batch, np.array(backbone.all_logits(batch.tokens, *backbone.embed(batch)))


def reloaded_logits(module: Any, batch: Batch) -> list[np.ndarray]:
    """Compute each row's logits with a model as mlx-vlm loads it."""
    found = []
    for row in batch.rows:
        arrays = {name: mx.array(value) for name, value in row.inputs.items()}
        tokens = mx.array(row.tokens)[None]
        features = module.get_input_embeddings(
            tokens, arrays.pop("pixel_values", None), mask=mx.ones_like(tokens), **arrays
        )
        fields = {name: value for name, value in features.to_dict().items() if value is not None}
        found.append(np.array(module.language_model(tokens, mask=None, cache=None, **fields).logits)[0])
    return found
