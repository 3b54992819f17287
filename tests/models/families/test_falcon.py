"""Falcon-OCR reads an image as mlx-vlm does, and a second one as well."""

import mlx.core as mx
import numpy as np

from tests.families import FAMILIES, build, examples
from vlora.models.backbone.embed import to_device
from vlora.models.families.registry import describe_family


def test_falcon_reads_one_image_as_mlx_vlm_does() -> None:
    """With one image, logits are those of mlx-vlm's own call; a second one's patches have places too."""
    module = build(FAMILIES["falcon_ocr"])
    module.eval()
    family = describe_family("falcon_ocr")
    one, two, _ = examples(FAMILIES["falcon_ocr"])
    tokens = mx.array(one.tokens)[None]
    inputs = {key: to_device(value) for key, value in one.inputs.items()}
    found = family.forward.forward(module, tokens, family.forward.embed(module, tokens, inputs))
    own = module(tokens, **inputs).logits
    second = family.forward.embed(
        module, mx.array(two.tokens)[None], {key: to_device(value) for key, value in two.inputs.items()}
    )
    places = np.array(second["pos_hw"][0])[two.tokens == module.config.img_id]

    assert np.allclose(np.array(found), np.array(own), atol=1e-4)
    assert np.array_equal(places[: len(places) // 2], places[len(places) // 2 :])
    assert places.any()
