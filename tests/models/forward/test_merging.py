"""Image features stand where their tokens do."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from tests.families import FAMILIES, build, examples
from vlora.models.backbone.embed import to_device
from vlora.models.forward.merging import merge_features, scatter_features, scatter_layers


def embed(name: str, module: nn.Module, row: int) -> mx.array:
    """Embed one row of a tiny family as mlx-vlm itself does."""
    example = examples(FAMILIES[name])[row]
    inputs = {key: to_device(value) for key, value in example.inputs.items()}
    embeds: mx.array = module.get_input_embeddings(mx.array(example.tokens)[None], **inputs).inputs_embeds
    return embeds


def test_ids_of_the_processor_count_before_those_of_the_configuration() -> None:
    """Features are put where the processor wrote their tokens, also if config.json names another id."""
    module = build(FAMILIES["internvl_chat"])
    example = examples(FAMILIES["internvl_chat"])[0]
    module.eval()  # its tower drops paths in training
    own = embed("internvl_chat", module, 0)
    with merge_features(module):
        corrected = embed("internvl_chat", module, 0)

    assert module.config.image_token_index not in example.tokens
    assert mx.array_equal(own, corrected)


def test_too_few_image_tokens_are_an_error() -> None:
    """Features that have no token of their own are not dropped."""
    with pytest.raises(ValueError, match="3 image tokens stand for 4 image features"):
        scatter_features(mx.zeros((1, 5, 2)), mx.ones((4, 2)), np.array([[True, True, True, False, False]]))


def test_features_have_a_gradient_and_an_order() -> None:
    """The first image token gets the first feature, of every layer; other places keep what they have."""
    is_image = np.array([[False, True, False], [True, True, False]])
    onto, features = mx.zeros((2, 3, 1)), mx.array([[1.0], [2.0], [3.0]])

    one, other = scatter_layers([onto, onto + 5], [features, features * 10], is_image)
    gradient = mx.grad(lambda features: (scatter_features(onto, features, is_image) ** 2).sum())(features)

    assert one.squeeze(-1).tolist() == [[0, 1, 0], [2, 3, 0]]
    assert other.squeeze(-1).tolist() == [[5, 10, 5], [20, 30, 5]]
    assert gradient.tolist() == [[2], [4], [6]]
