"""Words that are no values lead to what is written for them, and what is written can be copied."""

import re
from typing import get_args, get_type_hints

import pytest

from tests.recipe.reading import MINIMAL, problems_of
from vlora.recipe.meanings import OF_KEYS, explain_value, strip_affixes
from vlora.recipe.parse import all_keys, parse_recipe
from vlora.recipe.preference import LOSSES
from vlora.recipe.schema import OPTIMIZERS, Recipe

WRITTEN = re.compile(r"\b(\w+\.\w+) = (\[[^\]]*\]|\"\w+\"|true|false|[\d.]*\d)")
"""A key and its value within a hint."""


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        (
            "train.objective",
            "simpo",
            'it is a loss of "cpo": write train.objective = "cpo" and preference.loss = ["simpo"]',
        ),
        ("train.objective", "SimPO", 'it is a loss of "cpo"'),
        (
            "train.objective",
            "ipo",
            'it is a loss of "dpo": write train.objective = "dpo" and preference.loss = ["ipo"]',
        ),
        ("train.objective", "apo-zero", 'preference.loss = ["apo_zero"]'),
        ("train.objective", "grpo", "no objective learns from answers that the model writes while it trains"),
        ("train.objective", "DPO", "did you mean 'dpo'?"),
        ("train.objective", "causal_lm", 'write train.objective = "sft"'),
        ("optim.name", "paged_adamw_32bit", "did you mean 'adamw'?"),
        ("optim.name", "Lion-8bit", "did you mean 'lion'?"),
        ("optim.name", "galore", "there is no such optimizer"),
        ("optim.schedule", "wsd", "there is no such schedule"),
        ("lora.method", "QLoRA", 'write lora.method = "lora" and model.quantize_bits = 4'),
        ("lora.method", "pissa", 'write lora.init = "pissa"'),
        ("lora.init", "loftq", "there is no such beginning"),
        ("train.shard", "fsdp", 'write train.shard = "params" and train.grad_checkpoint = true'),
        ("train.batching", "none", "did you mean 'shuffled'?"),
        ("train.checkpoint_part", "attention", "did you mean 'layer'?"),
    ],
)
def test_words_of_others(key: str, value: str, hint: str) -> None:
    """The one sentence has the choices, and behind them what is meant."""
    section, _, name = key.partition(".")
    (problem,) = problems_of(f'{MINIMAL}\n[{section}]\n{name} = "{value}"')

    assert problem.startswith(f"{key}: found {value!r}, expected one of ")
    assert hint in problem


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (
            '[preference]\nloss_type = "ipo"',
            f"train.objective is meant, which has no 'ipo': {explain_value('train.objective', 'ipo')}",
        ),
        ('[preference]\nloss_type = "kto"', "did you mean train.objective?"),
        ('[preference]\nloss_type = ["sigmoid", "sft"]', "did you mean preference.loss?"),
        ('[train]\nobjectiv = "DPO"', 'did you mean train.objective = "dpo"?'),
        ('[train]\noptim = "adamw_torch"', 'did you mean optim.name = "adamw"?'),
        ('[preference]\nobjective = "DPO"', 'did you mean train.objective = "dpo"?'),
        (
            '[lora]\npeft_type = "qlora"',
            "lora.method is meant, which has no 'qlora': write lora.method = \"lora\" and model.quantize_bits = 4",
        ),
    ],
)
def test_names_and_words_of_others_together(line: str, hint: str) -> None:
    """One sentence says the key and what is written for a value that the key does not have."""
    (problem,) = problems_of(f"{MINIMAL}\n{line}")

    assert problem.partition(": unknown key; ")[2] == hint


@pytest.mark.parametrize(("key", "words"), [(key, words) for key, table in OF_KEYS.items() for words in table])
def test_hints_can_be_copied(key: str, words: str) -> None:
    """Keys and values of a hint make a recipe; words have one meaning, and are no values themselves."""
    hint = OF_KEYS[key][words]
    told = dict(WRITTEN.findall(hint))
    if key == "output.keep_best":
        told |= {"data.valid_fraction": "0.1", "eval.answer_rows": "3", "eval.answer_every": "5"}
    tables: dict[str, list[str]] = {}
    for name, value in told.items():
        section, _, inner = name.partition(".")
        tables.setdefault(section, []).append(f"{inner} = {value}")
    tables.setdefault("data", []).append('path = "rows.jsonl"')
    if "preference" in tables and "train_on_completions = false" not in tables["data"]:
        tables["data"].append("train_on_completions = true")
    parse_recipe("".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in tables.items()))

    section, _, inner = key.partition(".")
    choices = get_args(get_type_hints(get_type_hints(Recipe)[section])[inner])

    assert set(told) <= set(all_keys())
    assert not set(words.split()) & set(choices), f"{key} has it now; take it off vlora/recipe/meanings.py"
    assert all(word == word.lower() and "-" not in word for word in words.split())
    assert sum(word in other.split() for other in OF_KEYS[key] for word in words.split()) == len(words.split())


def test_every_loss_is_found_from_the_objective() -> None:
    """Who writes the name of a loss as the objective hears where it belongs."""
    names = {name for losses in LOSSES.values() for name in losses}

    for name in names - LOSSES.keys() - {"sft"}:
        hint = explain_value("train.objective", name)
        assert hint is not None
        assert f'"{name}"' in hint


def test_a_loss_of_another_objective() -> None:
    """Is said with its own; and a text where a list is due, with the list."""
    text = f'{MINIMAL}\n[train]\nobjective = "dpo"\n[preference]\nloss = '
    (problem,) = problems_of(f'{text}["simpo"]')
    (alone,) = problems_of(f'{text}"ipo"')

    assert 'it is a loss of "cpo"' in problem
    assert alone == "preference.loss: found 'ipo', expected a list of strings; write [\"ipo\"]"


def test_what_is_judged_by() -> None:
    """Names that others have for the loss of a validation."""
    text = MINIMAL.replace("[data]", "[data]\nvalid_fraction = 0.1")
    (problem,) = problems_of(f'{text}\n[output]\nkeep_best = "eval_loss"')

    assert problem.endswith('; write output.keep_best = "valid_loss"')


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_affixes_of_optimizers(name: str) -> None:
    """Whose program it is, and with how many bits, is left out; nothing of a name itself is."""
    for written in (
        name,
        f"{name}_8bit",
        f"paged_{name}_32bit",
        f"{name}_torch_fused",
        f"{name}_bnb_8bit",
        f"{name}8bit",
    ):
        assert strip_affixes(written.upper()) == name
