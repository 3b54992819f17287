"""Images that take the place of one token with as many features as they have."""

import mlx.core as mx
import pytest
from mlx import nn

from vlora.models.families.expanding import expand_features
from vlora.models.forward.lm_inputs import LOGIT_PLACES


def test_expanded_images() -> None:
    """Images take the place of their tokens, each with as many features as it has; logits stand behind their tokens."""
    table = nn.Embedding(8, 4)
    images = [mx.full((3, 4), 1.0), mx.full((2, 4), 2.0)]
    fields = expand_features(table, mx.array([[5, -1, 6, -1, 7]]), images, -1)
    embeds = fields["inputs_embeds"][0]

    assert fields[LOGIT_PLACES].tolist() == [[0, 3, 4, 6, 7]]
    assert mx.array_equal(embeds[1:4], images[0])
    assert mx.array_equal(embeds[5:7], images[1])
    assert mx.array_equal(embeds[mx.array([0, 4, 7])], table(mx.array([5, 6, 7])))
    with pytest.raises(ValueError, match="2 image tokens stand for 1 images"):
        expand_features(table, mx.array([[5, -1, -1]]), images[:1], -1)
