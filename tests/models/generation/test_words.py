"""The next words of rows are embedded as they are within a row."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.families import FAMILIES, build
from tests.training import make_trainable
from vlora.models.families.registry import describe_family
from vlora.models.generation.words import embed_words

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "gemma3"])
def test_words_are_embedded_as_in_a_row(family: str, checkpoint: CheckpointFactory) -> None:
    """Each is the next one of another row, and stands for itself."""
    backbone = make_trainable(checkpoint(family)).backbone
    tokens = np.array([3, 7, 3], dtype=np.int32)

    found = embed_words(backbone.module, backbone.family, tokens)["inputs_embeds"]

    assert found.shape[:2] == (3, 1)
    assert mx.array_equal(found[0], found[2])
    assert not mx.array_equal(found[0], found[1])
    alone = embed_words(backbone.module, backbone.family, tokens[1:2])["inputs_embeds"]
    assert mx.array_equal(found[1:2], alone)


def test_an_encoder_decoder_takes_ids() -> None:
    """Its decoder embeds them itself."""
    family = describe_family("florence2")

    assert embed_words(build(FAMILIES["florence2"]), family, np.array([3], dtype=np.int32)) == {}
