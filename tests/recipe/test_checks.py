"""Values of the right type that no run can use."""

from typing import Any

import pytest

from tests.recipe.reading import MINIMAL, problems_of
from vlora import parse_recipe
from vlora.errors import RecipeError


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
