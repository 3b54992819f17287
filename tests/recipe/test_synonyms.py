"""Names of other trainers lead to the key that is meant."""

from typing import get_args, get_type_hints

import attrs
import pytest

from tests.recipe.reading import MINIMAL, problems_of
from vlora.recipe.parse import all_keys
from vlora.recipe.schema import Recipe
from vlora.recipe.synonyms import NAMES, SECTIONS, VALUES, WORDS, explain_name, explain_section, find_key, find_value

COMING = {
    *("model.revision", "train.early_stopping_patience", "train.early_stopping_min_delta", "output.keep_best"),
}
"""Keys that some versions do not have."""


@pytest.mark.parametrize(
    ("section", "name", "hint"),
    [
        ("optim", "lr", "did you mean optim.learning_rate?"),
        ("train", "lr", "did you mean optim.learning_rate?"),
        ("train", "max_steps", "did you mean train.iters?"),
        ("data", "probabilities", "did you mean data.sources?"),
        ("preference", "max_prompt_length", "did you mean data.max_seq_length?"),
        ("preference", "orpo_lambda", "did you mean preference.beta?"),
        ("preference", "reference", "there is no such key, since answers are compared with the model that training"),
        ("optim", "warmup_ratio", "write optim.warmup_steps, which counts steps"),
        ("train", "batch", "did you mean train.batch_size?"),
        ("train", "num_train_epochs", "did you mean train.epochs?"),
        ("train", "per_device_train_batch_size", "did you mean train.batch_size?"),
        ("train", "per-device-train-batch-size", "did you mean train.batch_size?"),
        ("lora", "lora_r", "did you mean lora.rank?"),
        ("lora", "r", "did you mean lora.rank?"),
        ("lora", "target_modules", "did you mean lora.targets?"),
        ("train", "bf16", "there is no such key, since weights keep the type of the checkpoint"),
        ("train", "gradient_checkpointing", "did you mean train.grad_checkpoint?"),
        ("data", "max_length", "did you mean data.max_seq_length?"),
        ("train", "max_grad_norm", "did you mean optim.grad_clip?"),
        ("output", "save_total_limit", "did you mean output.keep_last?"),
        ("train", "resume_from_checkpoint", "write --resume behind the command"),
        ("train", "itres", "did you mean train.iters?"),
    ],
)
def test_names_of_others(section: str, name: str, hint: str) -> None:
    """Whatever section they stand in, in whatever spelling; slips of the pen are found as before."""
    text = f"{MINIMAL}\n{name} = 3" if section == "data" else f"{MINIMAL}\n[{section}]\n{name} = 3"
    (problem,) = problems_of(text)

    assert problem.startswith(f"{section}.{name}: unknown key; {hint}")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("lr = 1e-4", "lr: unknown section; did you mean optim.learning_rate?"),
        ("[training]", "training: unknown section; did you mean train?"),
        ("[peft_config]", "peft_config: unknown section; did you mean lora?"),
    ],
)
def test_names_outside_of_sections(line: str, hint: str) -> None:
    """A key without its section, and a section under the name that others have."""
    text = f"{line}\n{MINIMAL}" if "=" in line else f"{MINIMAL}\n{line}"

    assert problems_of(text) == [hint]


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("optim.name", "adamW", "adamw"),
        ("optim.name", "AdamW", "adamw"),
        ("optim.name", "paged_adamw_8bit", "adamw"),
        ("optim.schedule", "cosine_with_warmup", "cosine"),
        ("train.batching", "packing", "packed"),
        ("data.on_long_row", "truncate", "cut"),
    ],
)
def test_values_of_others(key: str, value: str, meant: str) -> None:
    """Case, and words that others have."""
    section, _, name = key.partition(".")
    text = f'{MINIMAL}\n{name} = "{value}"' if section == "data" else f'{MINIMAL}\n[{section}]\n{name} = "{value}"'
    (problem,) = problems_of(text)

    assert problem.endswith(f"; did you mean {meant!r}?")


def test_the_tables_hold() -> None:
    """What they lead to exists, no name is a key's own, and none leads to two places."""
    names = [name for text in (*NAMES.values(), *WORDS) for name in text.split()]
    own = {key.partition(".")[2] for key in all_keys()}
    sections = {field.name for field in attrs.fields(Recipe)}
    choices = {
        choice
        for section in sections
        for hint in get_type_hints(get_type_hints(Recipe)[section]).values()
        for choice in get_args(hint)
        if isinstance(choice, str)
    }

    assert set(NAMES) <= {*all_keys(), *COMING}
    assert len(names) == len(set(names))
    assert not set(names) & own
    assert all(name == name.lower() and "-" not in name for name in names)
    assert set(SECTIONS) <= {*sections, "extends"}
    assert not {name for text in SECTIONS.values() for name in text.split()} & sections
    assert set(VALUES) <= choices


def test_what_is_not_there_is_no_answer() -> None:
    """A key that a version does not have, a name that means nothing, a value of another key."""
    assert find_key("lr", ["train.iters"]) is None
    assert find_key("zzz", all_keys()) is None
    assert explain_name("zzz") is None
    assert explain_section("zzz") is None
    assert find_value("adamw_torch", ("constant", "cosine")) is None
    assert [find_value("none", choices) for choices in (("linear", "constant"), ("packed", "shuffled"))] == [
        *("constant", "shuffled"),
    ]
    assert [find_value("true", choices) for choices in (("shuffled", "packed"), ("default", "pissa"))] == [
        *("packed", "default"),
    ]
