"""A model behind the step's protocol: logits at chosen places, and the head apart."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.training import make_trainable
from vlora import collate

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("family", ["qwen3_vl", "llava"])
def test_logits_at_places_are_those_of_the_whole(family: str, checkpoint: CheckpointFactory) -> None:
    """The head sees the chosen places only; hidden states and the head by themselves give the same."""
    subject = make_trainable(checkpoint(family))
    backbone, batch = subject.backbone, collate(subject.examples)
    places = mx.array([3, 1, batch.tokens.shape[1] + 2])
    with backbone.overrides():
        inputs = backbone.embed(batch)
        whole = backbone.all_logits(batch.tokens, *inputs)
        chosen = backbone.logits(batch.tokens, *inputs, places)
    expected = np.array(whole.reshape(-1, whole.shape[-1])[places])
    np.testing.assert_allclose(np.array(chosen).reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    assert backbone.has_separable_head
    with backbone.overrides():
        hidden = backbone.hidden(batch.tokens, *inputs, places)
        projected = backbone.project(batch.tokens, *inputs, hidden)
    assert hidden.shape[0] == len(places)
    np.testing.assert_allclose(np.array(projected).reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
