"""What training the vision tower makes trainable: all that is not the language model, and nothing that is."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from tests.families import FAMILIES, build
from vlora import models
from vlora.errors import ModelError
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.models.load.unfreeze import unfreeze_language
from vlora.recipe.schema import ModelSection

Checkpoint = Callable[[str], Path]


def open_family(checkpoint: Checkpoint, family: str) -> models.MlxVlmBackbone:
    section = ModelSection(path=str(checkpoint(family)))
    return models.load_backbone(models.find_model(section), section)[0]


def trainable(backbone: models.MlxVlmBackbone) -> set[str]:
    return {name for name, _ in tree_flatten(backbone.module.trainable_parameters())}


@pytest.mark.parametrize("family", ["llava_next", "deepseek_vl_v2", "qwen3_vl", "mllama"])
def test_everything_outside_the_language_model_is_trained(checkpoint: Checkpoint, family: str) -> None:
    """Tower, projector, and what lies in the model itself: separators of image rows."""
    backbone = open_family(checkpoint, family)
    assert not trainable(backbone)
    models.unfreeze_vision(backbone)
    everything = {name for name, _ in tree_flatten(backbone.module.parameters())}
    assert trainable(backbone) == {name for name in everything if not name.startswith("language_model.")}


def test_separators_are_among_them(checkpoint: Checkpoint) -> None:
    """LLaVA-NeXT keeps the separator of image rows in the model itself, DeepSeek-VL2 two of them."""
    for family, names in (("llava_next", {"image_newline"}), ("deepseek_vl_v2", {"image_newline", "view_separator"})):
        backbone = open_family(checkpoint, family)
        models.unfreeze_vision(backbone)
        assert names <= trainable(backbone)


def test_lists_train_and_statistics_do_not() -> None:
    """FastVLM's projector is a list of layers; the running statistics of its tower's batch norms stay as they are."""
    backbone, _ = prepare(build(FAMILIES["fastvlm"]), describe_family("fastvlm"), ModelSection(path="fastvlm"))
    models.unfreeze_vision(backbone)
    found = trainable(backbone)
    assert "mm_projector.0.weight" in found
    assert any(".bn.weight" in name for name in found)
    assert not any("running_" in name for name in found)


def test_a_tower_within_the_language_model() -> None:
    """Phi-3-vision's tower lies within its language model, which stays frozen without it."""
    backbone, _ = prepare(build(FAMILIES["phi3_v"]), describe_family("phi3_v"), ModelSection(path="phi3_v"))
    models.unfreeze_vision(backbone)
    assert trainable(backbone)
    assert all(name.startswith("model.vision_embed_tokens.") for name in trainable(backbone))


def test_quantized_towers_are_refused(checkpoint: Checkpoint) -> None:
    """Packed weights cannot be trained."""
    backbone = open_family(checkpoint, "llava")
    nn.quantize(backbone.module.vision_tower, 32, 4, class_predicate=lambda _, part: isinstance(part, nn.Linear))
    mx.eval(backbone.module.parameters())
    with pytest.raises(ModelError, match=r"model\.train_vision: .* is quantized"):
        models.unfreeze_vision(backbone)


@pytest.mark.parametrize(
    ("name", "language"),
    [("falcon_ocr", "language_model."), ("molmo_point", "lm."), ("phi3_v", "model.")],
)
def test_full_finetuning_keeps_to_the_language_model(name: str, language: str) -> None:
    """Towers within the language model, or models around it, do not train with it; nor do tables of angles."""
    family = describe_family(name)
    backbone, _ = prepare(build(FAMILIES[name]), family, ModelSection(path=name))
    unfreeze_language(backbone)
    trained = [key for key, _ in tree_flatten(backbone.module.trainable_parameters())]

    assert trained
    assert not [key for key in trained if key.startswith(family.parts.beside_language or "?")]
    assert not [key for key in trained if key.rpartition(".")[2] in family.parts.tables]
    assert not [key for key in trained if not key.startswith((language, "lm_head."))]
