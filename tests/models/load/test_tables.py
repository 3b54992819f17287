"""The tables of token embeddings are found by their names."""

from tests.families import FAMILIES, build
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.models.load.tables import find_tables
from vlora.recipe.schema import ModelSection


def test_tables_are_the_language_models() -> None:
    """A tower's positions are none."""
    backbone, _ = prepare(build(FAMILIES["qwen3_vl"]), describe_family("qwen3_vl"), ModelSection(path="tiny"))
    assert find_tables(backbone) == ["language_model.model.embed_tokens"]
