"""Phi's families: padding of patches is not seen."""

import mlx.core as mx

from tests.families import FAMILIES, build, examples
from vlora.models.families.registry import describe_family


def test_padding_of_patches_is_not_seen() -> None:
    """Phi-4-reasoning-vision's features of an image do not depend on the padding behind its patches."""
    module = build(FAMILIES["phi4_siglip"])
    module.eval()
    example = examples(FAMILIES["phi4_siglip"])[0]
    inputs = {key: mx.array(value) for key, value in example.inputs.items()}
    less = {**inputs, "pixel_values": inputs["pixel_values"][:, :16]}
    tokens = mx.array(example.tokens)[None]
    embeds = describe_family("phi4_siglip").forward.embed

    assert inputs["pixel_values"].shape[1] > 16
    assert mx.array_equal(
        embeds(module, tokens, inputs)["inputs_embeds"], embeds(module, tokens, less)["inputs_embeds"]
    )
