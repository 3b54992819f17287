"""Parts of a model are told by names."""

import pytest

from vlora.adapters.model_parts import ModelParts, Part


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("language_model.layers.0.self_attn.q_proj", "language"),
        ("language_model", "language"),
        ("language_model.vision.blocks.0", "vision"),
        ("language_models.layers.0", "vision"),
        ("vision_tower.blocks.0.attn.qkv", "vision"),
        ("vision_tower.merger.linear_fc1", "connector"),
        ("multi_modal_projector.linear_1", "connector"),
        ("audio_tower.layers.0.fc1", "other"),
    ],
)
def test_names_tell_the_part(name: str, part: Part) -> None:
    """A tower within the language model is not of it, and a name that only begins alike is another one."""
    parts = ModelParts(language="language_model", beside_language=("language_model.vision",))

    assert parts.part(name) == part
    assert parts.is_language(name) == (part == "language")


def test_a_model_may_be_its_own_language_model() -> None:
    """All that lies in no other part is of it then."""
    parts = ModelParts(language="", beside_language=("vision_model",))

    assert parts.is_language("layers.0.q_proj")
    assert parts.part("vision_model.blocks.0") == "vision"
