"""Learning rates of parts and of an adapter's B. tests/train/test_rules.py has which parameters decay."""

import pytest

from vlora.adapters.model_parts import ModelParts
from vlora.errors import RecipeError
from vlora.recipe.schema import OptimSection
from vlora.train.parameter_rates import lr_multipliers

TRAINED = (
    "language_model.layers.0.q_proj.lora_a",
    "language_model.layers.0.q_proj.lora_b",
    "vision_tower.blocks.0.qkv.weight",
    "vision_tower.merger.mlp.lora_b",
)


def test_rate_factors() -> None:
    """Every part has its own rate, and every B that many times its A's."""
    section = OptimSection(learning_rate=1e-3, vision_rate=1e-4, connector_rate=5e-4, lora_plus_ratio=16.0)
    layout = ModelParts(language="language_model")

    found = lr_multipliers(TRAINED, layout, section)

    assert found == pytest.approx({TRAINED[1]: 16.0, TRAINED[2]: 0.1, TRAINED[3]: 8.0})
    assert lr_multipliers(TRAINED, layout, OptimSection()) == {}
    with pytest.raises(RecipeError, match=r"optim\.connector_rate: found 0\.0005, but nothing of the connector"):
        lr_multipliers(TRAINED[:2], layout, section)
