"""The features of images that a run keeps: where, in how much room, and why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.runs import make_recipe
from tests.training import Trainable, make_trainable
from vlora.build import Data, load_data, load_model
from vlora.cli.sentences import describe_storage
from vlora.data.rows import RowDataset
from vlora.models import find_model, load_processor, make_encoder
from vlora.run import feature_cache
from vlora.run.feature_cache import attach_feature_cache

CheckpointFactory = Callable[[str], Path]


def data_of(subject: Trainable) -> Data:
    """Give a recipe's data, without rows."""
    files = find_model(subject.recipe.model)
    encode = make_encoder(load_processor(files, subject.recipe.model), files.config, files.family, subject.recipe.data)
    return Data(files=files, encoder=encode, train=RowDataset(name="none", table=[], indices=[]), valid=None)


@pytest.mark.parametrize(
    ("family", "overrides", "reason"),
    [
        ("qwen3_vl", {"model__train_vision": True}, "vision tower or the connector"),
        ("llava", {"model__train_vision": True}, "vision tower or the connector"),
        ("qwen3_vl", {"lora__targets": ["vision", "q_proj"]}, "vision tower or the connector"),
        ("llava", {"lora__targets": ["connector"]}, "vision tower or the connector"),
        ("llava", {"lora__train_embeddings": True, "lora__targets": ["q_proj"]}, "token embeddings"),
        ("llava", {"model__full_finetune": True}, "token embeddings"),
        ("qwen3_vl", {"features__cache": False}, "features.cache = false"),
        ("qwen3_vl", {"features__memory_gb": 0, "features__disk_gb": 0}, "are 0"),
    ],
)
def test_are_not_kept_where_they_change(
    family: str, overrides: dict[str, Any], reason: str, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """With the reason; and nothing is written."""
    subject = make_trainable(checkpoint(family), features__path=str(tmp_path / "kept"), **overrides)
    found = attach_feature_cache(subject.recipe, data_of(subject), subject.backbone)

    assert found.cache is None
    assert describe_storage(found.storage).startswith("not kept")
    assert reason in describe_storage(found.storage)
    assert not (tmp_path / "kept").exists()


def test_the_encoder_that_is_given_stays_as_it_is(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The new one does not look at images whose features are kept; without a cache there is no new one."""
    subject = make_trainable(checkpoint("qwen3_vl"), features__path=str(tmp_path))
    data = data_of(subject)
    found = attach_feature_cache(subject.recipe, data, subject.backbone)
    assert data.encoder.memory is None
    assert found.encoder.memory is not None
    assert found.encoder.processor is data.encoder.processor

    off = attrs.evolve(subject.recipe, features=attrs.evolve(subject.recipe.features, cache=False))
    assert attach_feature_cache(off, data, subject.backbone).encoder is data.encoder


def test_full_finetuning_keeps_images_of_grids(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """All of the language model is trained, the tower is not."""
    subject = make_trainable(
        checkpoint("qwen2_vl"), model__full_finetune=True, features__path=str(tmp_path), features__memory_gb=0
    )
    found = attach_feature_cache(subject.recipe, data_of(subject), subject.backbone)

    assert found.cache is not None
    assert describe_storage(found.storage) == f"kept, up to 20 GB in {tmp_path}"


@pytest.mark.parametrize(("device_gb", "expected"), [(8, "1"), (24, "1.5"), (141, "8.81")])
def test_features_have_a_share_of_the_memory(
    device_gb: int, expected: str, checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a number a sixteenth of the device's memory is theirs, and a gigabyte of a small one."""
    monkeypatch.setattr(feature_cache, "device_memory", lambda: device_gb * 10**9)
    subject = make_trainable(checkpoint("qwen3_vl"), features__path=str(tmp_path))

    found = attach_feature_cache(subject.recipe, data_of(subject), subject.backbone)

    assert describe_storage(found.storage).startswith(f"kept, up to {expected} GB in memory")


@pytest.mark.parametrize(
    ("family", "options", "is_exact"),
    [
        ("qwen3_vl", {"features__disk_gb": 0.0}, False),
        ("qwen3_vl", {"features__memory_gb": 0.0}, True),
        ("qwen3_vl", {"features__cache": False}, True),
        ("llava", {"features__disk_gb": 0.0}, True),
    ],
)
def test_a_run_says_where_it_cannot_go_on_to_the_bit(
    family: str, options: dict[str, Any], is_exact: bool, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """Where images share a tower's batch and only memory keeps what it made of them."""
    recipe = make_recipe(checkpoint(family), rows, tmp_path / "out", **options)
    data = load_data(recipe)
    storage = attach_feature_cache(recipe, data, load_model(recipe, data.files)[0]).storage
    assert storage.resumes_rounded is not is_exact
    assert (describe_storage(storage).endswith(f"; {feature_cache.ROUNDED}")) is not is_exact
