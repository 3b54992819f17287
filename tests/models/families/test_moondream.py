"""Moondream's image sees itself whole."""

import mlx.core as mx
import pytest

from tests.families import FAMILIES, build, examples
from vlora.models.backbone.embed import to_device
from vlora.models.families.moondream import finish_moondream
from vlora.models.families.registry import describe_family


@pytest.mark.parametrize("name", ["moondream2", "moondream3"])
def test_the_mask_of_a_row_with_an_image_is_passed(name: str) -> None:
    """The mask that mlx-vlm makes for it goes to the language model; a row of text gets none."""
    module = build(FAMILIES[name])
    example = examples(FAMILIES[name])[0]
    inputs = {key: to_device(value) for key, value in example.inputs.items()}
    tokens = mx.array(example.tokens)[None]
    embedded = describe_family(name).forward.embed(module, tokens, inputs)
    mask = finish_moondream(module, tokens, inputs, embedded)["mask"]

    assert mx.array_equal(mask, embedded["attention_mask_4d"])
    # The first token sees one that comes after it.
    seen = mask[0, 0, 0] if mask.dtype == mx.bool_ else mask[0, 0, 0] == 0
    assert bool(seen[1])
    assert finish_moondream(module, tokens, {}, {"inputs_embeds": mask}) == {"inputs_embeds": mask}


@pytest.mark.parametrize("name", ["moondream2", "moondream3"])
def test_the_mask_is_of_the_type_of_the_model(name: str) -> None:
    """mlx-vlm makes Moondream 3's in float32 whatever the model's type is, and attention in bfloat16 refuses it."""
    module = build(FAMILIES[name])
    module.set_dtype(mx.bfloat16)
    example = examples(FAMILIES[name])[0]
    inputs = {key: to_device(value) for key, value in example.inputs.items()}
    tokens = mx.array(example.tokens)[None]
    embedded = describe_family(name).forward.embed(module, tokens, inputs)
    mask = finish_moondream(module, tokens, inputs, embedded)["mask"]
    assert mask.dtype == embedded["inputs_embeds"].dtype == mx.bfloat16
