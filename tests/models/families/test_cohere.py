"""Cohere Compass: features of deeper layers stand at their places, and rows run together."""

import mlx.core as mx
import numpy as np
from mlx_vlm.models.cohere_compass import language as compass

from tests.families import FAMILIES, build, examples
from vlora.models.backbone.embed import to_device
from vlora.models.families.cohere import batched_rows, finish_deepstack
from vlora.models.families.registry import describe_family


def test_features_of_deeper_layers_stand_at_image_tokens() -> None:
    """Spread over the row, each layer's features are those that mlx-vlm keeps with their places, and 0 elsewhere."""
    module = build(FAMILIES["cohere_compass"])
    example = examples(FAMILIES["cohere_compass"])[1]
    inputs = {name: to_device(value) for name, value in example.inputs.items()}
    tokens = mx.array(example.tokens)[None]
    given = describe_family("cohere_compass").forward.embed(module, tokens, inputs)
    kept = given["deepstack_visual_embeds"].embeddings
    dense = finish_deepstack(module, tokens, inputs, given)["deepstack_visual_embeds"]

    assert len(dense) == len(kept) > 0
    for spread, features in zip(dense, kept, strict=True):
        assert spread.shape == given["inputs_embeds"].shape
        np.testing.assert_array_equal(np.array(spread)[0, example.placeholders], np.array(features))
        assert not np.array(spread)[0, ~example.placeholders].any()


def test_rows_without_images_stay_as_they_are() -> None:
    """Nothing is added to a row of text."""
    fields = {"inputs_embeds": mx.ones((1, 2, 3))}

    assert finish_deepstack(mx, mx.array([[1, 2]]), {}, fields) is fields


def test_rows_run_together_while_training_only() -> None:
    """The function that runs rows one by one is mlx-vlm's own again afterwards."""
    before = compass._rowwise_batch
    with batched_rows(build(FAMILIES["cohere_compass"])):
        rows = compass._rowwise_batch(lambda hidden: hidden.shape, mx.zeros((3, 4, 5)))
        assert rows == (3, 4, 5)
    assert compass._rowwise_batch is before
