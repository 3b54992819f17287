"""Published names are found by trying them on a family's renaming."""

import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_vlm.utils import get_model_and_args

from tests.families import FAMILIES, build
from vlora.models.families.registry import describe_family
from vlora.models.published.sanitizing import Sanitizer
from vlora.models.published.spellings import Spellings

KNOWN = {
    "qwen3_vl": {
        "language_model.model.layers.1.self_attn.q_proj": "model.language_model.layers.1.self_attn.q_proj",
        "vision_tower.blocks.1.mlp.linear_fc1": "model.visual.blocks.1.mlp.linear_fc1",
    },
    "qwen2_vl": {"vision_tower.blocks.0.attn.qkv": "visual.blocks.0.attn.qkv"},
    "molmo": {"language_model.model.blocks.1.ff_proj": "model.transformer.blocks.1.ff_proj"},
    "phi3_v": {"model.layers.1.mlp.gate_up_proj": "model.layers.1.mlp.gate_up_proj"},
    "llava_bunny": {"mm_projector.linear_2": "model.mm_projector.2"},
}


def make_spellings(family: str) -> tuple[Spellings, list[str]]:
    """Make what finds the names of a tiny family, and list its linear layers and tables."""
    module = build(FAMILIES[family])
    shapes = {name: value.shape for name, value in tree_flatten(module.parameters())}
    package = get_model_and_args(dict(FAMILIES[family].config))[0]
    kinds = (nn.Linear, nn.Embedding)
    layers = [name for name, child in module.named_modules() if isinstance(child, kinds)]
    return Spellings(Sanitizer(module, package), package, shapes), layers


@pytest.mark.parametrize("family", KNOWN)
def test_known_names_are_found(family: str) -> None:
    """What is known to be published under another name, or the same, is found under it."""
    spellings, _ = make_spellings(family)
    for layer, expected in KNOWN[family].items():
        assert spellings.find(f"{layer}.weight") == f"{expected}.weight"


def test_what_the_code_does_not_make_is_not_found() -> None:
    """No name is given to a parameter that the renaming drops: a tied head."""
    spellings, _ = make_spellings("gemma3")
    assert spellings.find("language_model.lm_head.weight") is None


@pytest.mark.families
@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_every_family_has_a_published_name(family: str) -> None:
    """Of all families that are trained: each linear layer and table is found under a name of its own."""
    if describe_family(get_model_and_args(dict(FAMILIES[family].config))[1]).refused or FAMILIES[family].is_packed:
        pytest.skip("not trained, or published packed only")
    spellings, layers = make_spellings(family)
    found = {layer: spellings.find(f"{layer}.weight") for layer in layers}
    lost = [layer for layer, name in found.items() if name is None]
    # A head that is the embeddings' table is not published for itself.
    assert [layer for layer in lost if not layer.endswith("lm_head")] == []
    names = [name for name in found.values() if name is not None]
    assert len(set(names)) == len(names)
