"""What embedding uses, and what of it is ready before a batch."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training import make_trainable
from vlora import collate
from vlora.models import FeatureCache

CheckpointFactory = Callable[[str], Path]


def test_features_can_be_kept_while_nothing_behind_them_is_trained(checkpoint: CheckpointFactory) -> None:
    """With the tower trained they change, and the parameters that embedding uses are named."""
    frozen = make_trainable(checkpoint("qwen3_vl")).backbone
    trained = make_trainable(checkpoint("qwen3_vl"), model__train_vision=True).backbone

    assert frozen.why_features_change() is None
    assert not frozen.embed_param_names()
    assert trained.why_features_change() == "the vision tower or the connector is trained"
    assert trained.embed_param_names() >= {name for name in trained.feature_weights() if "pos_embed" in name}
    assert all(name.startswith("vision_tower.") for name in trained.embed_param_names())


@pytest.mark.parametrize("family", ["qwen3_vl", "llava"])
def test_a_row_is_known_by_its_images(family: str, checkpoint: CheckpointFactory) -> None:
    """Its features are there once they were made, and no longer without their cache; a row without images has none."""
    subject = make_trainable(checkpoint(family))
    backbone = subject.backbone
    shown = [example for example in subject.examples if example.image_keys]
    (plain,) = (example for example in subject.examples if not example.image_keys)
    assert not any(map(backbone.has_features, subject.examples))

    backbone.keep_features(FeatureCache(10**8))
    assert not backbone.has_features(shown[0])
    backbone.embed(collate(shown))

    assert all(map(backbone.has_features, shown))
    assert not backbone.has_features(plain)
    assert backbone.read_ahead(shown[0]) is shown[0]
    backbone.forget_traces()
    assert backbone.has_features(shown[0])
    backbone.keep_features(None)
    assert not backbone.has_features(shown[0])
