"""Recipes: every default, every complaint, and that nothing is lost on the way to a file and back."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import recipes, texts, toml_values
from vlora import dump_recipe, parse_recipe
from vlora.errors import RecipeError
from vlora.output.paths import output_paths
from vlora.recipe.converter import Names
from vlora.recipe.schema import Recipe, all_keys, parse_value, structure_recipe

MINIMAL = '[data]\npath = "rows.jsonl"\n'
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))

DEFAULTS = {
    "model.path": "mlx-community/Qwen2-VL-2B-Instruct-bf16",
    "model.full_finetune": False,
    "model.train_vision": False,
    "model.adapter_path": None,
    "model.trust_remote_code": False,
    "data.split": "train",
    "data.config": None,
    "data.image_resize_shape": None,
    "data.max_pixels": None,
    "data.custom_prompt_format": None,
    "data.columns": Names(),
    "data.image_root": None,
    "data.system": None,
    "data.max_seq_length": 2048,
    "data.train_on_completions": False,
    "data.valid_path": None,
    "data.valid_split": None,
    "data.on_bad_row": "raise",
    "data.allow_urls": False,
    "data.chat_template": None,
    "data.assistant_id": None,
    "model.add_tokens": (),
    "lora.rank": 8,
    "lora.alpha": 16.0,
    "lora.dropout": 0.0,
    "optim.learning_rate": 2e-5,
    "lora.targets": (),
    "lora.last_layers": None,
    "lora.method": "lora",
    "lora.rslora": False,
    "lora.init": "default",
    "lora.train_embeddings": False,
    "lora.train_head": False,
    "optim.lora_plus_ratio": None,
    "optim.connector_rate": None,
    "optim.vision_rate": None,
    "optim.grad_clip": None,
    "train.batch_size": 4,
    "train.iters": 1000,
    "train.epochs": None,
    "train.gradient_accumulation_steps": 1,
    "train.grad_checkpoint": False,
    "train.checkpoint_every": 1,
    "train.checkpoint_part": "layer",
    "train.steps_per_report": 10,
    "train.steps_per_eval": 200,
    "train.steps_per_save": 100,
    "train.val_batches": 25,
    "memory.limit_gb": None,
    "memory.cache_gb": None,
    "memory.wired_gb": None,
    "output.path": "adapters.safetensors",
}


def value_of(recipe: Recipe, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


def problems_of(text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("key", DEFAULTS)
def test_default(key: str) -> None:
    """A recipe that names only its data has the documented defaults, of the documented types."""
    found = value_of(parse_recipe(MINIMAL), key)

    assert found == DEFAULTS[key]
    assert type(found) is type(DEFAULTS[key])


@given(recipes())
def test_dump_and_parse(recipe: Recipe) -> None:
    """A dumped recipe is an equal recipe."""
    assert parse_recipe(dump_recipe(recipe)) == recipe


@given(recipes())
def test_recipes_are_values(recipe: Recipe) -> None:
    """Recipes are frozen and hashable."""
    assert hash(recipe) == hash(attrs.evolve(recipe))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        recipe.train.iters = 1  # type: ignore[misc]


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


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("[train]\nitres = 3", "train.itres: unknown key; did you mean train.iters?"),
        ("[train]\nlearning_rate = 1.0", "train.learning_rate: unknown key; did you mean optim.learning_rate?"),
        ("[model]\nrank = 4", "model.rank: unknown key; did you mean lora.rank?"),
        ("[optimizer]\nname = 'adam'", "optimizer: unknown section; did you mean optim?"),
        ("[optim]\nschedule = 'cosin'", "optim.schedule: found 'cosin', expected one of"),
        ("[optim]\nschedule = 'cosin'", "did you mean 'cosine'?"),
        ("[zzz]\nqqq = 1", "zzz: unknown section; known sections: model, data, lora,"),
        ("[eval]\nqqq = 1", "eval.qqq: unknown key; known keys: eval.answer_rows, eval.max_new_tokens"),
        ("lora = 3", "lora: found 3, expected a table of keys"),
    ],
)
def test_nearest_name(line: str, hint: str) -> None:
    """A misspelt name comes with the one that was meant."""
    (problem,) = problems_of(f"{line}\n{MINIMAL}" if "=" in line.splitlines()[0] else f"{MINIMAL}{line}")

    assert hint in problem


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.iters", 2.9, "an integer"),
        ("train.iters", 2.0, "an integer"),
        ("train.iters", "3", "an integer"),
        ("train.iters", True, "an integer"),
        ("train.iters", 0, "at least 1"),
        ("train.val_batches", 0, "-1 for all"),
        ("train.val_batches", -2, "-1 for all"),
        ("train.grad_checkpoint", "false", "true or false"),
        ("train.grad_checkpoint", 0, "true or false"),
        ("train.seed", -1, "at least 0"),
        ("optim.learning_rate", "1e-5", "a number"),
        ("optim.learning_rate", 0.0, "greater than 0"),
        ("optim.learning_rate", float("inf"), "finite"),
        ("optim.weight_decay", -0.1, "at least 0"),
        ("optim.betas", [0.9], "a list of 2 numbers"),
        ("optim.grad_clip", 0, "greater than 0"),
        ("lora.rank", 0, "at least 1"),
        ("lora.targets", "q_proj", "a list of strings"),
        ("lora.targets", ["q_proj", ""], "empty target"),
        ("lora.targets", ["re:(q"], "no regular expression"),
        ("lora.last_layers", 0, "at least 1"),
        ("lora.method", "dorra", "did you mean 'dora'?"),
        ("lora.init", "pisa", "did you mean 'pissa'?"),
        ("optim.lora_plus_ratio", 0, "greater than 0"),
        ("optim.vision_rate", -1.0, "greater than 0"),
        ("data.image_resize_shape", [512, 512.5], "a list of 2 integers"),
        ("data.image_resize_shape", [512, 0], "two positive numbers"),
        ("data.max_pixels", 0, "at least 1"),
        ("data.max_pixels", 1e6, "an integer"),
        ("data.custom_prompt_format", "{question}", "JSON"),
        ("data.custom_prompt_format", '"text"', "JSON object"),
        ("data.custom_prompt_format", '{"user": "a", "user": "b"}', "'user' stands twice"),
        ("data.columns", {"imgs": 3}, "a table of names"),
        ("data.columns", ["imgs"], "a table of names"),
        ("data.image_root", "", "not be empty"),
        ("data.max_seq_length", 1, "at least 2"),
        ("data.path", "", "not be empty"),
        ("data.path", 3, "a string"),
        ("data.valid_fraction", 1.0, "less than 1"),
        ("data.on_bad_row", "ignore", "'raise', 'skip'"),
        ("model.quantize_bits", 7, "2, 3, 4, 5, 6 or 8"),
        ("model.quantize_group_size", 16, "32, 64 or 128"),
        ("eval.answer_rows", -2, "at least -1"),
        ("output.path", "", "not be empty"),
    ],
)
def test_impossible_value(key: str, value: Any, expected: str) -> None:
    """A value of the wrong type or out of range is reported with key, value and what is expected."""
    (problem,) = problems_of(MINIMAL, {key: value})

    assert problem.startswith(f"{key}: found {value!r}, ")
    assert expected in problem


def test_a_long_table_is_repeated_in_part() -> None:
    """What is found is cut where it is longer than a sentence bears."""
    with pytest.raises(RecipeError) as caught:
        structure_recipe({"data": {"path": "a", "columns": {f"column_{n}": n for n in range(300)}}})

    assert "data.columns: found {'column_0': 0, " in str(caught.value)
    assert len(str(caught.value)) < 300


def test_integers_are_numbers() -> None:
    """Where a number is expected, an integer is one."""
    found = parse_recipe(MINIMAL, {"lora.alpha": 32}).lora.alpha

    assert found == 32.0
    assert type(found) is float


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


def test_columns_that_nothing_reads() -> None:
    """A name in data.columns that nothing reads is reported with the nearest; a format has its own names."""
    table = '[data.columns]\nimgs = "image"\ntag = "anser"\n'

    (problem,) = problems_of(MINIMAL + table, {})
    assert problem == "data.columns.tag: found 'anser', which nothing reads; did you mean 'answer'?"
    own = {"data.custom_prompt_format": '{"user": "{anser}", "assistant": "{answer}"}'}
    assert parse_recipe(MINIMAL + table, own).data.columns == {"imgs": "image", "tag": "anser"}


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


@given(texts)
def test_parse_value_takes_anything(text: str) -> None:
    """No value on the command line raises."""
    parse_value(text)


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ({"data.valid_path": "x", "data.valid_split": "test"}, ["data.valid_path", "data.valid_split"]),
        ({"data.valid_path": "x", "data.valid_fraction": 0.1}, ["data.valid_path", "data.valid_fraction"]),
        (
            {"data.max_pixels": 900, "data.image_resize_shape": [8, 8]},
            ["data.max_pixels", "data.image_resize_shape"],
        ),
        ({"model.full_finetune": True, "model.adapter_path": "a"}, ["model.adapter_path", "'a'"]),
        ({"model.full_finetune": True, "model.quantize_bits": 4}, ["model.quantize_bits", "4"]),
        ({"optim.name": "adam", "optim.weight_decay": 0.1}, ["optim.weight_decay", "0.1", "adamw"]),
        ({"eval.answer_rows": 5}, ["eval.answer_rows", "data.valid_split"]),
        ({"model.full_finetune": True, "lora.method": "dora"}, ["lora.method", "'dora'", "model.full_finetune"]),
        ({"model.full_finetune": True, "lora.targets": ["mlp"]}, ["lora.targets", "['mlp']", "model.full_finetune"]),
        ({"model.full_finetune": True, "lora.last_layers": 2}, ["lora.last_layers", "2", "model.full_finetune"]),
        ({"model.full_finetune": True, "lora.train_head": True}, ["lora.train_head", "model.full_finetune"]),
        (
            {"model.full_finetune": True, "optim.lora_plus_ratio": 16},
            ["optim.lora_plus_ratio", "16.0"],
        ),
        ({"model.quantize_bits": 4, "lora.train_embeddings": True}, ["lora.train_embeddings", "model.quantize_bits"]),
        ({"model.adapter_path": "a", "lora.init": "pissa"}, ["lora.init", "'pissa'", "model.adapter_path"]),
        ({"optim.vision_rate": 1e-5}, ["optim.vision_rate", "1e-05", "model.train_vision"]),
        ({"model.full_finetune": True, "optim.connector_rate": 1}, ["optim.connector_rate", "model.train_vision"]),
        ({"memory.limit_gb": 2, "memory.cache_gb": 3.0}, ["memory.cache_gb", "memory.limit_gb"]),
        ({"train.checkpoint_every": 2}, ["train.checkpoint_every", "train.grad_checkpoint"]),
        ({"train.checkpoint_part": "mlp"}, ["train.checkpoint_part", "train.grad_checkpoint"]),
    ],
)
def test_contradiction(overrides: dict[str, Any], keys: list[str]) -> None:
    """Values that exclude one another are refused, with both keys."""
    (problem,) = problems_of(MINIMAL, overrides)

    for key in keys:
        assert key in problem


@pytest.mark.parametrize(
    "overrides",
    [
        {"lora.method": "dora", "lora.rslora": True},
        {"lora.init": "pissa", "lora.targets": ["re:.*[qv]_proj", "vision"], "optim.vision_rate": 1e-5},
        {"model.train_vision": True, "optim.vision_rate": 1e-5, "optim.connector_rate": 1e-4},
        {"model.full_finetune": True, "model.train_vision": True, "optim.vision_rate": 1e-6, "lora.rank": 16},
        {"model.adapter_path": "a", "optim.vision_rate": 1e-5, "optim.lora_plus_ratio": 16},
        {"lora.train_embeddings": True, "lora.train_head": True, "lora.last_layers": 1},
    ],
)
def test_goes_together(overrides: dict[str, Any]) -> None:
    """Keys that can be combined are."""
    recipe = parse_recipe(MINIMAL, overrides)

    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_contradictions_are_reported_together() -> None:
    """Several contradictions come in one error."""
    overrides = {"data.valid_path": "x", "data.valid_split": "y", "optim.name": "adam", "optim.weight_decay": 0.1}

    assert len(problems_of(MINIMAL, overrides)) == 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe(path: Path) -> None:
    """A shipped recipe parses, round-trips, and begins with a comment that names its command."""
    text = path.read_text(encoding="utf-8")
    comment = text.partition("\n\n")[0]

    recipe = parse_recipe(text)

    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert all(line.startswith("#") for line in comment.splitlines())
    assert f"recipes/{path.name}" in comment
    assert "python -m vlora" in comment
    assert "Hardware:" in comment


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[data]\npath = 'a'\n[train]\nseed = " + "9" * 5000, "not TOML"),
        ("a = " + "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[data]\npath = 'a'\n[train]\niters = 9223372036854775808", "train.iters: found .*64 bits"),
        ("[data]\npath = 'a'\n[train]\nseed = -1" + "0" * 400, "train.seed: found .*64 bits"),
        ("[data]\npath = 'a'\n[train]\nbatch_size = 9007199254740993", "train.batch_size: .*at most 1048576"),
        ("[data]\npath = 'a'\nimage_resize_shape = [8, 65536]", "at most 65535"),
        ("[data]\npath = 'a'\nworkers = 100000", "data.workers: .*at most 1024"),
        ("[data]\npath = 'a'\n[lora]\nrank = 2147483648", "lora.rank: .*at most 65536"),
        ("[data]\npath = 'a'\n[memory]\nlimit_gb = 1e300", "memory.limit_gb: .*at most"),
        ("[data]\npath = 'a'\n[features]\ndisk_gb = 1e300", "features.disk_gb: .*at most"),
        ('[data]\npath = "a\\u0000b"', "data.path: .*NUL"),
        ('[data]\npath = "a"\n[output]\npath = "\\u0000"', "output.path: .*NUL"),
    ],
)
def test_what_no_machine_can_do_is_refused(text: str, said: str) -> None:
    """Numbers beyond all bounds and names that no file has are named; no message repeats a number of 400 digits."""
    with pytest.raises(RecipeError, match=said) as caught:
        parse_recipe(text)
    assert len(str(caught.value)) < 1000


def test_half_of_a_pair_of_surrogates_is_no_name() -> None:
    """What the command line passes on of bytes that are not UTF-8 is refused, and not looked for."""
    with pytest.raises(RecipeError, match="must be UTF-8"):
        parse_recipe("", {"data.path": "a\udc80"})


def test_no_folder_is_made_for_a_user_that_there_is_not() -> None:
    """A home that cannot be found is an error of its key."""
    with pytest.raises(RecipeError, match=r"output\.path: found '~no-such-user/a', and there is no user"):
        output_paths(parse_recipe("", {"data.path": "a", "output.path": "~no-such-user/a"}))
