"""Features of Jina's images stand where mlx-vlm puts them."""

import mlx.core as mx
import numpy as np

from tests.families import FAMILIES, build, embed_row, examples
from vlora.models.backbone.embed import to_device
from vlora.models.families.registry import describe_family


def test_features_of_jina_stand_where_mlx_vlm_puts_them() -> None:
    """One image's features are added at the places at which mlx-vlm adds them, one by one."""
    module = build(FAMILIES["jina_vlm"])
    module.eval()
    example = examples(FAMILIES["jina_vlm"])[0]
    inputs = {key: to_device(value) for key, value in example.inputs.items()}
    found = describe_family("jina_vlm").forward.embed(module, mx.array(example.tokens)[None], inputs)["inputs_embeds"]

    assert np.allclose(np.array(found), np.array(embed_row("jina_vlm", module, 0)), atol=1e-5)
