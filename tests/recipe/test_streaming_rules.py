"""Keys that a stream needs or cannot have: each has its sentence."""

from typing import Any

import pytest

from vlora.errors import RecipeError
from vlora.recipe.parse import dump_recipe, parse_recipe

STREAM = {"data.path": "rows.jsonl", "data.streaming": True, "train.iters": 10}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train.epochs": 1}, r"train\.epochs: found 1 together with data\.streaming = true"),
        ({"data.valid_fraction": 0.1}, r"data\.valid_fraction: found 0\.1 .*valid_split"),
        ({"data.shuffle_buffer": 0}, r"data\.shuffle_buffer"),
        ({"train.objective": "dpo", "preference.precompute": True}, r"preference\.precompute: found true together"),
        (
            {"data.shuffle": False, "data.shuffle_buffer": 5},
            r"data\.shuffle_buffer: found 5 together with data\.shuffle = false, which reads .* leave one",
        ),
        ({"data.streaming": False, "data.shuffle_buffer": 5}, r"data\.shuffle_buffer: found 5 without data\.streaming"),
    ],
)
def test_contradictions_have_a_sentence(keys: dict[str, Any], message: str) -> None:
    """At load time, with the key and what to do."""
    given = {name: value for name, value in STREAM.items() if not (name == "train.iters" and "train.epochs" in keys)}
    with pytest.raises(RecipeError, match=message):
        parse_recipe("", given | keys)


def test_streamed_sources_may_have_weights() -> None:
    """All of them, or none."""
    stream: dict[str, Any] = {"data.streaming": True, "train.iters": 10}
    even = parse_recipe("", stream | {"data.sources": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]})
    assert [source.weight for source in even.data.sources] == [None, None]
    with pytest.raises(RecipeError, match=r"data\.sources\[1\]\.weight: missing, and other sources have one"):
        parse_recipe("", stream | {"data.sources": [{"path": "a.jsonl", "weight": 1}, {"path": "b.jsonl"}]})
    for source in ({"path": "a.jsonl"}, {"path": "a.jsonl", "weight": 2}):
        recipe = parse_recipe("", stream | {"data.sources": [source]})
        assert recipe.data.sources[0].weight == source.get("weight"), "a single one has all rows"


def test_a_stream_needs_iters() -> None:
    """A default would end it somewhere; a recipe that was written out names it."""
    recipe = parse_recipe("", STREAM | {"data.shuffle_buffer": 5})
    with pytest.raises(RecipeError, match=r"train\.iters: found none together with data\.streaming = true"):
        parse_recipe("", {"data.path": "rows.jsonl", "data.streaming": True})

    assert parse_recipe(dump_recipe(recipe)) == recipe
