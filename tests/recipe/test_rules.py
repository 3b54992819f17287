"""Keys that contradict one another: each pair is refused, and what goes together is not."""

from typing import Any

import pytest

from tests.recipe.reading import MINIMAL, problems_of
from vlora import dump_recipe, parse_recipe

DIVIDED = {"train.shard": "params", "train.grad_checkpoint": True}


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ({"data.valid_path": "x", "data.valid_split": "test"}, ["data.valid_path", "data.valid_split"]),
        ({"data.valid_path": "x", "data.valid_fraction": 0.1}, ["data.valid_path", "data.valid_fraction"]),
        (
            {"data.max_pixels": 900, "data.image_resize_shape": [8, 8]},
            ["data.max_pixels", "data.image_resize_shape"],
        ),
        ({"model.full_finetune": True, "model.adapter_path": "a"}, ["model.adapter_path", "'a'"]),
        ({"model.full_finetune": True, "model.quantize_bits": 4}, ["model.quantize_bits", "4"]),
        ({"optim.name": "adam", "optim.weight_decay": 0.1}, ["optim.weight_decay", "0.1", "adamw"]),
        ({"output.keep_best": "valid_loss"}, ["output.keep_best", "'valid_loss'", "data.valid_fraction"]),
        (
            {"output.keep_best": "anls", "data.valid_fraction": 0.1, "eval.answer_rows": 5, "eval.answer_every": 5},
            ["output.keep_best", "'anls'", "eval.metrics ('exact_match')"],
        ),
        (
            {"output.keep_best": "exact_match", "data.valid_fraction": 0.1, "eval.answer_rows": 5},
            ["output.keep_best", "'exact_match'", "eval.answer_every"],
        ),
        (
            {"output.keep_best": "exact_match", "data.valid_fraction": 0.1, "eval.answer_every": 5},
            ["output.keep_best", "'exact_match'", "eval.answer_rows"],
        ),
        ({"train.early_stopping_patience": 3}, ["train.early_stopping_patience", "3", "data.valid_fraction"]),
        (
            {"train.early_stopping_min_delta": 0.1, "data.valid_fraction": 0.1},
            ["train.early_stopping_min_delta", "0.1", "train.early_stopping_patience"],
        ),
        ({"eval.answer_rows": 5}, ["eval.answer_rows", "data.valid_split"]),
        ({"model.full_finetune": True, "lora.method": "dora"}, ["lora.method", "'dora'", "model.full_finetune"]),
        ({"model.full_finetune": True, "lora.targets": ["mlp"]}, ["lora.targets", "['mlp']", "model.full_finetune"]),
        ({"model.full_finetune": True, "lora.last_layers": 2}, ["lora.last_layers", "2", "model.full_finetune"]),
        ({"model.full_finetune": True, "lora.train_head": True}, ["lora.train_head", "model.full_finetune"]),
        (
            {"model.full_finetune": True, "optim.lora_plus_ratio": 16},
            ["optim.lora_plus_ratio", "16.0"],
        ),
        ({"model.quantize_bits": 4, "lora.train_embeddings": True}, ["lora.train_embeddings", "model.quantize_bits"]),
        ({"model.adapter_path": "a", "lora.init": "pissa"}, ["lora.init", "'pissa'", "model.adapter_path"]),
        ({"optim.vision_rate": 1e-5}, ["optim.vision_rate", "1e-05", "model.train_vision"]),
        ({"model.full_finetune": True, "optim.connector_rate": 1}, ["optim.connector_rate", "model.train_vision"]),
        ({"memory.limit_gb": 2, "memory.cache_gb": 3.0}, ["memory.cache_gb", "memory.limit_gb"]),
        ({"train.checkpoint_every": 2}, ["train.checkpoint_every", "train.grad_checkpoint"]),
        ({"train.checkpoint_part": "mlp"}, ["train.checkpoint_part", "train.grad_checkpoint"]),
        ({"train.shard": "params"}, ["train.shard", "train.grad_checkpoint = true"]),
        ({**DIVIDED, "train.checkpoint_every": 2}, ["train.shard", "train.checkpoint_every"]),
        ({**DIVIDED, "model.full_finetune": True}, ["train.shard", "model.full_finetune"]),
        ({**DIVIDED, "model.add_tokens": ["<a>"]}, ["train.shard", "model.add_tokens"]),
        ({**DIVIDED, "data.valid_fraction": 0.1, "eval.answer_rows": 3}, ["train.shard", "eval.answer_rows"]),
    ],
)
def test_contradiction(overrides: dict[str, Any], keys: list[str]) -> None:
    """Values that exclude one another are refused, with both keys."""
    (problem,) = problems_of(MINIMAL, overrides)

    for key in keys:
        assert key in problem


@pytest.mark.parametrize(
    "overrides",
    [
        {"lora.method": "dora", "lora.rslora": True},
        {
            "output.keep_best": "json_fields.price",
            "eval.metrics": ["json_fields", "scores:mine"],
            "data.valid_fraction": 0.1,
            "eval.answer_rows": 5,
            "eval.answer_every": 5,
        },
        {
            "output.keep_best": "scores:mine",
            "eval.metrics": ["scores:mine"],
            "data.valid_fraction": 0.1,
            "eval.answer_rows": 5,
            "eval.answer_every": 5,
        },
        {"lora.init": "pissa", "lora.targets": ["re:.*[qv]_proj", "vision"], "optim.vision_rate": 1e-5},
        {"model.train_vision": True, "optim.vision_rate": 1e-5, "optim.connector_rate": 1e-4},
        {"model.full_finetune": True, "model.train_vision": True, "optim.vision_rate": 1e-6, "lora.rank": 16},
        {"model.adapter_path": "a", "optim.vision_rate": 1e-5, "optim.lora_plus_ratio": 16},
        {"lora.train_embeddings": True, "lora.train_head": True, "lora.last_layers": 1},
        {**DIVIDED, "data.streaming": True, "train.iters": 9, "train.batching": "packed"},
    ],
)
def test_goes_together(overrides: dict[str, Any]) -> None:
    """Keys that can be combined are."""
    recipe = parse_recipe(MINIMAL, overrides)

    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_contradictions_are_reported_together() -> None:
    """Several contradictions come in one error."""
    overrides = {"data.valid_path": "x", "data.valid_split": "y", "optim.name": "adam", "optim.weight_decay": 0.1}

    assert len(problems_of(MINIMAL, overrides)) == 2
