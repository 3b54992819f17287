"""Rows of Granite with several images."""

import mlx.core as mx
import numpy as np
import pytest

from tests.families import FAMILIES, build, examples
from vlora.models.families.registry import describe_family


@pytest.mark.parametrize("name", ["granite_vision", "granite4_vision"])
def test_every_image_of_granite_counts_for_itself(name: str) -> None:
    """An image beside another one in a row has the features that it has alone, in its own tokens' places."""
    module = build(FAMILIES[name])
    module.eval()
    example = examples(FAMILIES[name])[1]
    runs = np.flatnonzero(np.diff(np.concatenate([[False], example.placeholders, [False]]).astype(int))).reshape(-1, 2)

    def features(tokens: np.ndarray, image: slice) -> np.ndarray:
        inputs = {key: mx.array(value[image]) for key, value in example.inputs.items()}
        fields = describe_family(name).forward.embed(module, mx.array(tokens)[None], inputs)
        return np.array(mx.stack([fields["inputs_embeds"], *fields.get("deepstack_visual_embeds", [])]))[:, 0]

    together = features(example.tokens, slice(None))

    assert len(runs) == 2
    for number, (start, end) in enumerate(runs):
        alone = features(example.tokens[start:end], slice(number, number + 1))
        assert np.allclose(alone, together[:, start:end], atol=1e-4)
