"""Towers that ask their first layer for its weights' type get no adapter there, and have all others."""

import mlx.core as mx
import pytest

from tests.families import FAMILIES, build, examples
from vlora import collate, models
from vlora.adapters.attached import lora_layers
from vlora.models.families.registry import describe_family
from vlora.models.load import loading
from vlora.recipe.schema import LoraSection, ModelSection


@pytest.mark.parametrize(
    ("family", "first"),
    [
        ("lfm2_vl", "patch_embedding"),
        ("muse_glimmer", "patch_embedding"),
        ("phi4_siglip", "patch_embedding"),
        ("phi4mm", "patch_embedding"),
        ("youtu_vl", "patch_embedding"),
        ("molmo", "patch_embedding"),
        ("molmo2", "patch_embedding"),
        ("ernie4_5_moe_vl", "patch_embed.proj"),
        ("mimo_v2", "patch_embed.proj"),
        ("deepseek_v4", "patch_embed.proj"),
        ("jina_vlm", "patch_embed.proj"),
        ("gemma4", "input_proj"),
    ],
)
def test_an_adapted_tower_sees(family: str, first: str) -> None:
    """Adapters on the whole tower leave its first layer out, and images are embedded."""
    backbone, _ = loading.prepare(build(FAMILIES[family]), describe_family(family), ModelSection(path="tiny"))
    models.add_lora(backbone, LoraSection(rank=2, targets=("vision",)), seed=0, quantized={})
    names = [name for name, _ in lora_layers(backbone.module)]
    assert names
    assert not any(name.endswith(first) for name in names)
    inputs, _ = backbone.embed(collate(examples(FAMILIES[family])[:1]))
    assert mx.isfinite(inputs["inputs_embeds"]).all().item()
