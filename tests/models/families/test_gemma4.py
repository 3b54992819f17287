"""What mlx-vlm computes otherwise than the published Gemma 4, and vlora does not."""

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from tests.models.families.test_gemma import Checkpoint, Encoding, encode_row, logits_of, open_backbone, watch_masks
from vlora import collate, models


def test_layers_of_gemma4_have_masks_of_their_own(checkpoint: Checkpoint, encoder: Encoding) -> None:
    """An image sees itself whole in the sliding layers of large models, within the window, and nowhere else.

    mlx-vlm lets it in the full layers too, and beyond the window (gemma4/language.py:546).
    """
    for family, looks_ahead in (("gemma4", False), ("gemma4_moe", True)):
        backbone = open_backbone(checkpoint(family))
        example = encode_row(encoder(family), 1)
        masks = watch_masks(backbone)
        logits_of(backbone, example)

        places = np.flatnonzero(example.tokens == backbone.module.config.image_token_id)
        first, last = places[0], places[-1]
        window = backbone.module.config.text_config.sliding_window
        assert last - first > window
        for mask, kind in zip(masks, backbone.module.config.text_config.layer_types, strict=True):
            is_sliding = kind == "sliding_attention"
            assert mask[first, last] == (is_sliding and looks_ahead)
            assert not mask[last, last + 1]
            assert mask[last, last - window + 1]
            assert mask[last, last - window] == mask[last, first] == (not is_sliding)


def test_constants_of_gemma4_are_not_trained(checkpoint: Checkpoint) -> None:
    """What transformers holds as buffers stays as it is: layers' scalars, bounds, what standardizes features."""
    backbone = open_backbone(checkpoint("gemma4"))
    models.unfreeze_language(backbone)
    models.unfreeze_vision(backbone)

    trained = {name for name, _ in tree_flatten(backbone.module.trainable_parameters())}
    left = {name.rpartition(".")[2] for name, _ in tree_flatten(backbone.module.parameters()) if name not in trained}
    assert left == {"layer_scalar", "std_bias", "std_scale", "input_min", "input_max", "output_min", "output_max"}


def test_layers_inputs_of_images_are_padding(checkpoint: Checkpoint, encoder: Encoding) -> None:
    """The layers' own inputs of an image are those of the padding token, and do not train them."""
    backbone = open_backbone(checkpoint("gemma4"))
    table = backbone.module.language_model.model.embed_tokens_per_layer
    table.unfreeze()
    example = encode_row(encoder("gemma4"), 1)
    batch = collate([example])
    features, _ = backbone.embed(batch)
    cotangents = {name: mx.ones_like(value) for name, value in features.items()}
    (gradient,) = backbone.embed_vjp(batch, cotangents).values()

    tokens = example.tokens[:-1]
    is_image = tokens == backbone.module.config.image_token_id
    padding = (table.weight[0] * 32**0.5).reshape(6, 32)
    assert is_image.any()
    for layers in np.array(features["per_layer_inputs"][0, : len(tokens)])[is_image]:
        np.testing.assert_allclose(layers, np.array(padding), rtol=1e-6)
    moved = np.flatnonzero(np.abs(np.array(gradient)).max(axis=1))
    assert set(moved) == set(tokens[~is_image].tolist())
