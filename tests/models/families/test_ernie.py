"""ERNIE's positions and token types are a row's own inputs, and the forward reads them."""

import mlx.core as mx
import numpy as np

from tests.families import FAMILIES, build, examples
from vlora.models.backbone.embed import to_device
from vlora.models.families.ernie import finish_ernie, forward_ernie
from vlora.models.families.registry import describe_family


def test_positions_and_types_are_the_models_own() -> None:
    """Positions are those of the model's own index, axis first; the forward uses both.

    Tokens of images, and those before and behind them, are of type 1.
    """
    module = build(FAMILIES["ernie4_5_moe_vl"])
    module.eval()
    example = examples(FAMILIES["ernie4_5_moe_vl"])[1]
    inputs = {name: to_device(value) for name, value in example.inputs.items()}
    tokens = mx.array(example.tokens)[None]
    embedded = describe_family("ernie4_5_moe_vl").forward.embed(module, tokens, inputs)
    fields = finish_ernie(module, tokens, inputs, embedded)
    own, _ = module.language_model.get_rope_index(tokens, inputs["image_grid_thw"], None, None)

    assert fields["position_ids"].shape == (3, 1, len(example.tokens))
    assert mx.array_equal(mx.moveaxis(fields["position_ids"], 0, -1), own)
    of_images = np.isin(example.tokens, [module.config.image_start_token_id, module.config.image_end_token_id])
    assert of_images.sum() == 2 * len(example.inputs["image_grid_thw"])
    np.testing.assert_array_equal(np.array(fields["token_type_ids"])[0] == 1, of_images | example.placeholders)
    shifted = {**fields, "position_ids": mx.flip(fields["position_ids"], axis=-1)}
    found, other = (forward_ernie(module, tokens, given) for given in (fields, shifted))
    assert found.shape[:2] == (1, len(example.tokens))
    assert not mx.allclose(found, other, atol=1e-3)
