"""Layers are found by where they lie, and what is recomputed of them by name."""

import mlx.nn as nn
import pytest

from tests.families import FAMILIES, build
from vlora.adapters.model_parts import ModelParts
from vlora.errors import ModelError
from vlora.models.backbone.parts import (
    choose_language,
    choose_towers,
    find_layout,
    language_layers,
    tower_layers,
    used_by_embed,
)
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import find_prefix


class Layer(nn.Module):
    """A layer with an MLP of its own, or without."""

    def __init__(self, *, has_mlp: bool = True) -> None:
        """Make a layer."""
        super().__init__()
        self.attention = nn.Linear(4, 4)
        if has_mlp:
            self.mlp = nn.Linear(4, 4)


class Stack(nn.Module):
    """Layers one behind the other."""

    def __init__(self, n_layers: int, *, has_mlp: bool = True) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = [Layer(has_mlp=has_mlp) for _ in range(n_layers)]


class Model(nn.Module):
    """A tower and a language model."""

    def __init__(self, *, has_mlp: bool = True) -> None:
        """Make both."""
        super().__init__()
        self.vision_tower = Stack(5)
        self.language_model = Stack(3, has_mlp=has_mlp)


LAYOUT = ModelParts(language="language_model")


def test_layers_are_found_by_where_they_lie() -> None:
    """The language model's are its own, though the tower has more."""
    model = Model()

    assert language_layers(model, LAYOUT) == model.language_model.layers
    assert list(tower_layers(model, LAYOUT)) == [model.vision_tower.layers]


def test_every_second_layer_or_its_mlp_is_recomputed() -> None:
    """What a family cannot recompute as a whole is recomputed in part."""
    layers = Model().language_model.layers

    assert len(choose_language(layers, 2, "layer", None)) < len(choose_language(layers, 1, "layer", None)) == 3
    assert choose_language(layers, 1, "layer", "mlp") == [layer.mlp for layer in layers]


def test_layers_without_an_mlp_are_named() -> None:
    """A language model's is an error; a tower's are recomputed whole."""
    layers = Model(has_mlp=False).language_model.layers

    with pytest.raises(ModelError, match=r"layers \(Layer\) have no MLP"):
        choose_language(layers, 1, "mlp", None)
    assert choose_towers([layers], 1, "mlp") == layers


def test_embedding_uses_tables_and_all_outside_the_language_model() -> None:
    """Neither the language model's layers nor its head."""
    module = build(FAMILIES["llava"])
    family = describe_family("llava")
    layout = find_layout(family, find_prefix(module, family))
    names = [
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
        "multi_modal_projector.linear_1.weight",
    ]

    assert used_by_embed(module, layout, (), names) == [names[0], names[2]]
