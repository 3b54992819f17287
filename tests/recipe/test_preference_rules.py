"""Keys that contradict one another where preferences are learned, and where they are not."""

from typing import Any

import pytest

from tests.recipe.reading import problems_of
from vlora import parse_recipe

DPO, KTO = {"train.objective": "dpo"}, {"train.objective": "kto"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"preference.beta": 0.2}, ["preference.beta", "0.2", "'sft'", "train.objective"]),
        ({**DPO, "preference.loss": ["simpo"]}, ["preference.loss", "'simpo'", "'sigmoid'"]),
        ({**DPO, "preference.loss": ["sigmod"]}, ["preference.loss", "did you mean 'sigmoid'?"]),
        ({**DPO, "preference.loss": ["ipo", "ipo"]}, ["preference.loss", "once"]),
        ({**DPO, "preference.weights": [1, 2]}, ["preference.weights", "found 2 for 1"]),
        (
            {**DPO, "preference.loss": ["ipo"], "preference.label_smoothing": 0.1},
            ["preference.label_smoothing", "robust"],
        ),
        ({**DPO, "preference.loss": ["kto"]}, ["preference.loss", "'kto'", "train.objective = 'kto'"]),
        ({**DPO, "preference.loss": ["dpo"]}, ["preference.loss", "'dpo'", "the objective itself", "'sigmoid'"]),
        ({"train.objective": "cpo", "preference.loss": ["sft"]}, ["preference.loss", "train.objective = 'dpo'"]),
        ({**DPO, "preference.weights": [0]}, ["preference.weights", "found [0.0]", "nothing is learned"]),
        (
            {**KTO, "preference.desirable_weight": 0.0, "preference.undesirable_weight": 0.0},
            ["preference.desirable_weight and preference.undesirable_weight", "nothing is learned"],
        ),
        ({**DPO, "preference.gamma": 1.0}, ["preference.gamma", "'simpo'"]),
        ({**DPO, "preference.nll_weight": 0.0}, ["preference.nll_weight", "'cpo' and 'orpo'"]),
        ({"train.objective": "orpo", "preference.precompute": True}, ["preference.precompute", "'dpo' and 'kto'"]),
        ({**DPO, "lora.dropout": 0.1}, ["lora.dropout", "0.1", "set it to 0"]),
        ({**DPO, "data.custom_prompt_format": '[{"role": "user"}]'}, ["data.custom_prompt_format", "data.columns"]),
        ({**KTO, "train.batch_size": 1}, ["train.batch_size", "2 or more"]),
        ({**KTO, "preference.precompute": True}, ["train.objective", "'kto'", "apo_zero_unpaired"]),
        ({**KTO, "model.full_finetune": True}, ["train.objective", "'kto'", "apo_zero_unpaired"]),
    ],
)
def test_contradiction(overrides: dict[str, Any], said: list[str]) -> None:
    """What excludes one another is refused in one sentence."""
    (problem,) = problems_of("", {"data.path": "-", **overrides})

    assert all(part in problem for part in said), problem


@pytest.mark.parametrize(
    "overrides",
    [
        {**DPO, "preference.loss": ["sigmoid", "sft"], "preference.label_smoothing": 0.1, "preference.dpop": 50.0},
        {**DPO, "preference.precompute": True, "model.full_finetune": True, "train.batching": "packed"},
        {**KTO, "preference.loss": ["apo_zero_unpaired"], "train.batching": "packed", "train.batch_size": 1},
        {**KTO, "train.batching": "packed", "train.batch_size": 1},
        {**KTO, "train.batching": "packed", "data.streaming": True, "train.iters": 9},
        {"train.objective": "cpo", "preference.loss": ["simpo"], "preference.gamma": 1.0, "preference.nll_weight": 0.0},
        {"train.objective": "orpo", "lora.dropout": 0.1},
        {"train.objective": "orpo", "preference.weights": [0.0]},
        {**DPO, "preference.loss": ["sigmoid", "sft"], "preference.weights": [0.0, 1.0]},
        {**KTO, "preference.undesirable_weight": 0.0},
        {**KTO, "preference.loss": ["apo_zero_unpaired"], "preference.precompute": True, "train.batch_size": 1},
    ],
)
def test_what_goes_together(overrides: dict[str, Any]) -> None:
    """What is meant to be set together is not refused."""
    assert parse_recipe("", {"data.path": "-", **overrides}).train.objective == overrides["train.objective"]
