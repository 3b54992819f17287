"""Mistral Large 3 reads the embeddings that it is given."""

import mlx.core as mx

from tests.families import FAMILIES, build, embed_row, examples
from vlora.models.families.registry import describe_family


def test_mistral_large_sees_its_images() -> None:
    """The language model reads the embeddings that it is given; mlx-vlm's own call drops them."""
    module = build(FAMILIES["mistral_large3"])
    family = describe_family("mistral_large3")
    example = examples(FAMILIES["mistral_large3"])[0]
    tokens = mx.array(example.tokens)[None]
    embeds = mx.array(embed_row("mistral_large3", module, 0))
    own = module.language_model(tokens, inputs_embeds=embeds).logits
    dropped = module.language_model(tokens).logits
    seen = family.forward.forward(module, tokens, {"inputs_embeds": embeds})

    assert mx.array_equal(own, dropped)
    assert float(mx.abs(seen - dropped).max()) > 1e-2
