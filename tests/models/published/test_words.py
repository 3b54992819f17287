"""The words of a family's renaming are found in the functions that it consists of."""

from mlx_vlm.models import idefics3, mistral_large3

from vlora.models.published.words import read_words


def test_words_of_called_functions_and_of_constants_are_found() -> None:
    """Single words, what one is replaced by, and pairs of a table beside the function."""
    words = read_words(mistral_large3, ("Model", "VisionModel", "LanguageModel"))
    assert {"vision_encoder.", "patch_merger.", "multi_modal_projector.norm.weight"} <= words.names
    assert any(new.startswith("attention") or "proj" in new for _, new in words.pairs)


def test_words_are_of_the_family_alone() -> None:
    """A family's words are those of its own code, not of all families."""
    words = read_words(idefics3, ("Model", "VisionModel", "LanguageModel"))
    assert "text_model" in " ".join(words.names)
    assert not any("switch_mlp" in word for word in words.names)
