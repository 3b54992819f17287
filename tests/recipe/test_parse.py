"""TOML to a recipe and back: what is wrong is said at once, overrides replace, and nothing is lost."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recipe.reading import MINIMAL, problems_of
from tests.strategies import recipes, texts, toml_values
from vlora import dump_recipe, parse_recipe
from vlora.errors import RecipeError
from vlora.recipe.parse import all_keys, flatten_recipe, parse_override, parse_value, structure_recipe
from vlora.recipe.schema import Recipe


@given(recipes())
def test_dump_and_parse(recipe: Recipe) -> None:
    """A dumped recipe is an equal recipe."""
    assert parse_recipe(dump_recipe(recipe)) == recipe


@given(recipes())
def test_values_by_dotted_keys(recipe: Recipe) -> None:
    """What is dumped has all values that are given; defaults fill in what an older text lacks, and nothing else."""
    text = dump_recipe(recipe)
    flat = flatten_recipe(text)

    assert set(flat) <= set(all_keys())
    assert flatten_recipe(text, with_defaults=True) == flat
    length = {"train.iters", "train.epochs"} & set(flat)
    assert len(length) == 1
    older = flatten_recipe('[data]\npath = "a"\nold = 1', with_defaults=True)
    assert (older["data.path"], older["data.old"], older["train.batch_size"]) == ("a", 1, 4)


@given(st.dictionaries(st.sampled_from([*all_keys(), "train.itres", "lora", "x.y"]), toml_values, max_size=8))
def test_nonsense_is_a_recipe_error(values: dict[str, Any]) -> None:
    """Whatever TOML can say gives a recipe or a `RecipeError`, never another exception."""
    raw: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        table = raw.setdefault(section, {})
        if name and isinstance(table, dict):
            table[name] = value
        else:
            raw[section] = value

    try:
        recipe = structure_recipe(raw)
    except RecipeError:
        return

    assert parse_recipe(dump_recipe(recipe)) == recipe


@given(st.text())
def test_any_text_is_a_recipe_or_an_error(text: str) -> None:
    """A file that is no TOML is reported as that."""
    with pytest.raises(RecipeError, match=r"not TOML|unknown|missing|expected"):
        parse_recipe(text)


def test_everything_wrong_is_reported_at_once() -> None:
    """Unknown keys and sections, wrong types and impossible values come in one error, each with key and value."""
    problems = problems_of(
        """
        [model]
        full_finetune = "false"
        [data]
        pth = "rows.jsonl"
        image_resize_shape = [512]
        [trian]
        iters = 3
        [train]
        batch_size = 2.9
        epochs = 0
        seed = true
        [lora]
        dropout = 1.5
        targets = ["q_proj", 7]
        [optim]
        name = "adamx"
        betas = [0.9, 2.0]
        learning_rate = nan
        """
    )

    expected = {
        "model.full_finetune": "'false'",
        "data.pth": "data.path",
        "data.path": "missing",
        "data.image_resize_shape": "[512]",
        "trian": "train",
        "train.batch_size": "2.9",
        "train.epochs": "0",
        "train.seed": "True",
        "lora.dropout": "1.5",
        "lora.targets": "['q_proj', 7]",
        "optim.name": "'adamx'",
        "optim.betas": "[0.9, 2.0]",
        "optim.learning_rate": "nan",
    }
    assert sorted(problem.partition(":")[0] for problem in problems) == sorted(expected)
    for problem in problems:
        assert expected[problem.partition(":")[0]] in problem


def test_prompt_format_as_a_table() -> None:
    """A prompt format written as a TOML table is the same as one written as JSON."""
    table = '[data.custom_prompt_format]\nuser = ["{image}", "{question}"]\nassistant = "{answer}"\n'

    found = parse_recipe(MINIMAL + table).data.custom_prompt_format

    assert json.loads(found or "") == {"user": ["{image}", "{question}"], "assistant": "{answer}"}


@pytest.mark.parametrize("value", ["12.50", "2024-03-05T10:00:00Z", '["x", 1e3]'])
def test_prompt_format_that_toml_respells(value: str) -> None:
    """What TOML reads into another spelling is not learned in that; in quotes it is as it is written."""
    table = f'[data.custom_prompt_format]\nuser = "{{question}}"\nassistant = {value}\n'

    (problem,) = problems_of(MINIMAL + table, {})
    assert problem.startswith("data.custom_prompt_format: found ")
    assert problem.endswith("TOML does not say how it is written; put it in quotes")


def test_overrides() -> None:
    """Overrides replace values of the text and add sections that it lacks."""
    text = MINIMAL + "[train]\niters = 3\nseed = 5\n"

    recipe = parse_recipe(text, {"train.iters": 7, "lora.rank": 4, "data.path": "other"})

    assert (recipe.train.iters, recipe.train.seed, recipe.lora.rank, recipe.data.path) == (7, 5, 4, "other")


@pytest.mark.parametrize("text", ["iters = 3", "epochs = 2", "iters = 3\nepochs = 2"])
@pytest.mark.parametrize(("overrides", "length"), [({"iters": 7}, (7, None)), ({"epochs": 5}, (1000, 5))])
def test_an_override_of_the_length_replaces_the_other(
    text: str, overrides: dict[str, int], length: tuple[int, int]
) -> None:
    """Steps given for this run are its length though the text says epochs, and the other way round."""
    keys = {f"train.{name}": value for name, value in overrides.items()}

    train = parse_recipe(f"{MINIMAL}[train]\n{text}\nseed = 4\n", keys).train

    assert (train.iters, train.epochs, train.seed) == (*length, 4)


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("iters = 7\nepochs = 2", {}),
        ("", {"train.iters": 7, "train.epochs": 2}),
        ("epochs = 5", {"train.iters": 7, "train.epochs": 2}),
    ],
)
def test_two_lengths_are_refused(text: str, overrides: dict[str, int]) -> None:
    """A recipe, or overrides, with both iters and epochs is an error with both keys and values."""
    (problem,) = problems_of(f"{MINIMAL}[train]\n{text}\n", overrides)

    for words in ("train.iters", "train.epochs", "7", "2", "keep one"):
        assert words in problem


def test_overrides_are_checked_with_the_rest() -> None:
    """Unknown and wrong overrides are reported together with what is wrong in the text."""
    problems = problems_of("[train]\niters = 0", {"trian.iters": 3, "train.itres": 3, "lora.rank": "x", "iters": 1})

    assert {problem.partition(":")[0] for problem in problems} == {
        "data.path",
        "iters",
        "lora.rank",
        "train.iters",
        "train.itres",
        "trian.iters",
    }
    assert any(problem.startswith("trian.iters:") and "did you mean train.iters?" in problem for problem in problems)


def test_override_of_a_section_that_is_none() -> None:
    """An override of a key whose section is not a table points at the section."""
    assert problems_of("data = 3", {"data.path": "rows"}) == ["data: found 3, expected a table of keys"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.5", 3.5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"3"', "3"),
        ("cosine", "cosine"),
        ("a b", "a b"),
        ("", ""),
    ],
)
def test_parse_value(text: str, value: Any) -> None:
    """A value on the command line is TOML where it is TOML, otherwise a string."""
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("output.path", "2026-11-30", "2026-11-30"),
        ("output.path", "007", "007"),
        ("output.project", "12:30:00", "12:30:00"),
        ("model.revision", "1e10", "1e10"),
        ("data.path", "true", "true"),
        ("model.revision", '"1e10"', "1e10"),
        ("data.path", "[1]", [1]),
        ("train.iters", "3", 3),
        ("optim.learning_rate", "1e-3", 1e-3),
        ("train.nothing", "2026", 2026),
        ("nothing", "3", 3),
    ],
)
def test_a_key_that_is_a_text_is_given_one(key: str, text: str, value: Any) -> None:
    """`--set output.path=$(date +%F)` names a folder; a commit of digits alone is no number."""
    assert parse_override(key, text) == value
    assert type(parse_override(key, text)) is type(value)


@given(texts)
def test_parse_value_takes_anything(text: str) -> None:
    """No value on the command line raises."""
    parse_value(text)
