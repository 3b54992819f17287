"""`[[data.sources]]`: what they may say, how they are written and read again, and what contradicts."""

import pytest

from tests.recipe.reading import problems_of
from vlora import dump_recipe, parse_recipe
from vlora.recipe.parse import flatten_recipe
from vlora.recipe.sources import SourceSection

TWO = """
[[data.sources]]
path = "a.jsonl"
weight = 3
columns = {q = "question", a = "answer"}
[[data.sources]]
path = "data/*.parquet"
weight = 0.5
rows = 100
split = "test"
"""


def test_sources_are_read_and_written() -> None:
    """They stand in their order, with what they say and nothing else."""
    recipe = parse_recipe(TWO)

    assert recipe.data.path is None
    assert [(source.path, source.weight, source.rows) for source in recipe.data.sources] == [
        ("a.jsonl", 3.0, None),
        ("data/*.parquet", 0.5, 100),
    ]
    assert recipe.data.sources[0].columns == {"q": "question", "a": "answer"}
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert hash(recipe.data.sources) == hash(parse_recipe(dump_recipe(recipe)).data.sources)
    assert "data.path" not in flatten_recipe(dump_recipe(recipe), with_defaults=True)
    assert isinstance(recipe.data.sources[1], SourceSection)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[data]\npath = "a"\n[[data.sources]]\npath = "b"',
            "data.path and data.sources: found 'a' and 1 sources; keep",
        ),
        ("[data]\nsplit = 'x'", "data.path: missing; name the rows to train on, or several sets of them"),
        ("[[data.sources]]\nweight = 1", "data.sources[0].path: missing; it has no default"),
        ('[[data.sources]]\npath = "a"\n[[data.sources]]\npath = "b"\nweight = 1', "data.sources[0].weight: missing"),
        ('[[data.sources]]\npath = "a"\nweight = 0', "data.sources[0].weight: found 0, must be greater than 0"),
        ('[[data.sources]]\npath = "a"\nrows = 0', "data.sources[0].rows: found 0, must be at least 1"),
        ('[[data.sources]]\npath = "a"\nwieght = 1', "unknown key; did you mean data.sources[0].weight?"),
        ('[[data.sources]]\npath = "a"\nzzz = 1', "data.sources[0].zzz: unknown key; known keys: data.sources.path"),
        ('[data]\nsources = "a"', "data.sources: found 'a', expected tables [[...]]"),
        ('[data]\nsources = ["a"]', "data.sources[0]: found 'a', expected a table of keys"),
        (
            '[data]\nrevision = "v1"\n[[data.sources]]\npath = "a"',
            "data.revision: found 'v1' together with data.sources",
        ),
        ('[[data.sources]]\npath = "a"\ncolumns = {q = "qestion"}', "data.sources[0].columns.q: found 'qestion'"),
        ("[data]\nmixture = []", "data.mixture: unknown key; did you mean data.sources"),
    ],
)
def test_slips(text: str, expected: str) -> None:
    """Each is one sentence that begins with the key."""
    assert any(expected in problem for problem in problems_of(text)), problems_of(text)


def test_either_replaces_the_other() -> None:
    """A recipe that extends one with a path may have sources instead; an override too."""
    base = '[data]\npath = "a.jsonl"\nsystem = "Be brief."'
    extended = parse_recipe(f'extends = "base.toml"\n{TWO}', read_base=lambda _, name: (name, base))

    assert extended.data.path is None
    assert extended.data.system == "Be brief."
    assert parse_recipe(TWO, {"data.path": "b.jsonl"}).data.sources == ()
    given = parse_recipe(base, {"data.sources": [{"path": "b.jsonl"}]})
    assert (given.data.path, given.data.sources) == (None, (SourceSection(path="b.jsonl"),))
