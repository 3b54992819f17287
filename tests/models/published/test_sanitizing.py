"""mlx-vlm's renaming runs on arrays of our own, and the model that it belongs to stays as it is."""

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm.utils import get_model_and_args

from tests.families import FAMILIES, build
from vlora.models.published.sanitizing import Sanitizer

TOWER = "model.embed_tokens_extend.image_embed.img_processor"


def test_all_parts_rename_and_the_model_stays_as_it_is() -> None:
    """Phi-4's renaming keeps what it merged; the model has none of it afterwards."""
    tiny = FAMILIES["phi4mm"]
    module = build(tiny)
    before, attributes = dict(tree_flatten(module.parameters())), set(vars(module))
    sanitize = Sanitizer(module, get_model_and_args(dict(tiny.config))[0])
    name = "model.layers.0.mlp.down_proj"
    shape = before[f"language_model.{name}.weight"].shape
    renamed = sanitize(
        {
            f"{name}.base_layer.weight": mx.ones(shape),
            "model.embed_tokens_extend.image_embed.img_processor.embeddings.patch_embedding.weight": mx.ones(
                (8, 3, 2, 2)
            ),
        }
    )
    assert renamed[f"language_model.{name}.weight"].shape == shape
    # The tower's own part makes a matrix of the convolution.
    assert renamed["vision_tower.vision_tower.embeddings.patch_embedding.weight"].shape == (8, 12)
    assert set(vars(module)) == attributes
    after = dict(tree_flatten(module.parameters()))
    assert {name: id(value) for name, value in after.items()} == {name: id(value) for name, value in before.items()}
