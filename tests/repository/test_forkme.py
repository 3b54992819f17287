"""`recipes/forkme.toml` is the reference of the recipe keys: complete, true to the code, usable."""

import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from vlora.recipe.parse import all_keys, dump_recipe, parse_recipe
from vlora.recipe.preference import LOSSES, PreferenceSection
from vlora.recipe.schema import Recipe

FORKME = Path(__file__).parents[2] / "recipes" / "forkme.toml"
PLACEHOLDER = "your-data.jsonl"
NEEDS: dict[str, dict[str, Any]] = {
    "optim.connector_rate": {"model.train_vision": True},
    "optim.vision_rate": {"model.train_vision": True},
    "train.pack_length": {"train.batching": "packed"},
    "train.early_stopping_patience": {"data.valid_fraction": 0.1},
    "output.keep_best": {"data.valid_fraction": 0.1},
    "output.project": {"output.trackers": ["wandb"]},
}
"""What an example only goes together with, as the comment above it says."""

REPLACES = {"train.epochs": "iters = 1000", "data.sources": f'path = "{PLACEHOLDER}"'}
"""The line that an example stands instead of, as the comment above it says."""


def named_keys() -> list[tuple[str, str, bool]]:
    """List the keys as the file has them: dotted name, value as written, whether it is set."""
    found = []
    section = ""
    for line in FORKME.read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif key := re.fullmatch(r"(# )?(\w+) = (.+)", line):
            found.append((f"{section}.{key[2]}", key[3], key[1] is None))
    return found


EXAMPLES = [(name, value) for name, value, is_set in named_keys() if not is_set]


def test_names_every_key_once_in_order() -> None:
    """Every key of a recipe stands in the file, set or commented out, in the order of the code."""
    expected = all_keys()

    names = [name for name, _, _ in named_keys()]

    assert expected == names


def test_values_are_the_defaults() -> None:
    """What is set is what a recipe with nothing but `data.path` means, and nothing is left out."""
    minimal = parse_recipe(f'[data]\npath = "{PLACEHOLDER}"')
    expected = tomllib.loads(dump_recipe(minimal))

    found = tomllib.loads(FORKME.read_text(encoding="utf-8"))

    assert expected == found


def test_every_key_is_explained() -> None:
    """A comment in words stands directly above each key."""
    lines = FORKME.read_text(encoding="utf-8").splitlines()
    keys = [index for index, line in enumerate(lines) if re.match(r"(# )?\w+ = ", line)]

    bare = [lines[index] for index in keys if not re.match(r"# (?!\w+ = )", lines[index - 1])]

    assert bare == []


def comments() -> dict[str, str]:
    """Give what stands above each key."""
    found, section, above = {}, "", list[str]()
    for line in FORKME.read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section, above = header[1], []
        elif key := re.fullmatch(r"(# )?(\w+) = (.+)", line):
            found[f"{section}.{key[2]}"] = " ".join(above)
            above = []
        else:
            above = [*above, line.removeprefix("# ")] if line.startswith("# ") else []
    return found


def choices_of(kind: Any) -> set[str]:
    """List the words among which a key has to be."""
    if get_origin(kind) is Literal:
        return {value for value in get_args(kind) if isinstance(value, str)}
    return set().union(*map(choices_of, get_args(kind)))


def test_every_choice_is_explained() -> None:
    """Each word that a key may be, such as each objective, stands above it, or is what it is set to."""
    above, values = comments(), {name: value for name, value, _ in named_keys()}
    explained = {}
    for section, kind in get_type_hints(Recipe).items():
        for key, own in get_type_hints(kind).items():
            if choices := choices_of(own):
                name = f"{section}.{key}"
                explained[name] = choices - set(re.findall(r'"(\w+)"', f"{above[name]} {values[name]}"))

    assert {"train.objective", "optim.name"} <= explained.keys()
    assert {name: missing for name, missing in explained.items() if missing} == {}


HELP = str(PreferenceSection.__doc__).partition("loss:")[2].partition("weights:")[0]


@pytest.mark.parametrize("text", [comments()["preference.loss"], HELP], ids=["file", "help"])
def test_losses_are_those_that_there_are(text: str) -> None:
    """Those of each objective over preferences, the one that is taken without a word first; and no others."""
    listed = re.findall(r'\b(\w+):?\s+("\w+"(?:,\s+"\w+")*)', text)
    found = {name: tuple(re.findall(r'"(\w+)"', losses)) for name, losses in listed}

    assert {name: losses[0] for name, losses in found.items()} == {name: losses[0] for name, losses in LOSSES.items()}
    assert {name: set(losses) for name, losses in found.items()} == {name: {*losses} for name, losses in LOSSES.items()}


@pytest.mark.parametrize(("name", "value"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_commented_examples_can_be_used(name: str, value: str) -> None:
    """Removing the comment sign before an example gives a valid recipe."""
    text = FORKME.read_text(encoding="utf-8")
    line = f"{name.partition('.')[2]} = {value}"

    used = text.replace(f"\n# {line}\n", f"\n{line}\n").replace(f"\n{REPLACES.get(name)}\n", "\n")
    changed = parse_recipe(used, NEEDS.get(name))

    assert changed != parse_recipe(text, NEEDS.get(name))
