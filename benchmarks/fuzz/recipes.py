"""Recipes of which one thing is wrong, or none: files, sections, keys, values, the command line's `--set`."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from vlora.recipe.schema import OPTIMIZERS

from .broken import DEPTH, WRONG, break_file, show
from .trials import Trial

MODEL = "builtin:tiny-qwen3-vl"
BASE: dict[str, dict[str, Any]] = {
    "model": {"path": MODEL},
    "data": {"path": "builtin:digits", "workers": 0},
    "train": {"iters": 1, "batch_size": 1},
    "features": {"cache": False},
    "output": {"path": "out/a.safetensors"},
}

COUNTS: dict[str, tuple[int, int]] = {
    "data.max_pixels": (1, 2**63 - 1),
    "data.max_seq_length": (2, 2**63 - 1),
    "data.assistant_id": (0, 2**31 - 1),
    "data.workers": (0, 2**10),
    "data.prefetch": (1, 2**63 - 1),
    "lora.rank": (1, 2**16),
    "lora.last_layers": (1, 2**63 - 1),
    "optim.warmup_steps": (0, 2**63 - 1),
    "train.batch_size": (1, 2**20),
    "train.iters": (1, 2**63 - 1),
    "train.epochs": (1, 2**63 - 1),
    "train.gradient_accumulation_steps": (1, 2**63 - 1),
    "train.seed": (0, 2**63 - 1),
    "train.steps_per_report": (1, 2**63 - 1),
    "train.steps_per_eval": (1, 2**63 - 1),
    "train.steps_per_save": (1, 2**63 - 1),
    "eval.max_new_tokens": (1, 2**63 - 1),
}
"""Keys to the least and the most that they may be."""

LONG_ENOUGH = 64
"""Tokens that no row of the built-in digits exceeds."""

NUMBERS: dict[str, tuple[float, float]] = {
    "data.valid_fraction": (0.0, 0.999),
    "lora.alpha": (1e-9, 1e30),
    "lora.dropout": (0.0, 0.999),
    "optim.learning_rate": (1e-12, 1e30),
    "optim.lora_plus_ratio": (1e-9, 1e9),
    "optim.eps": (1e-30, 1e9),
    "optim.grad_clip": (1e-9, 1e30),
    "features.memory_gb": (0.0, 1e9),
    "features.disk_gb": (0.0, 1e9),
    "memory.limit_gb": (1e-9, 1e9),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "data.on_bad_row": ("raise", "skip"),
    "lora.method": ("lora", "dora"),
    "lora.init": ("default", "pissa"),
    "optim.name": OPTIMIZERS,
    "optim.schedule": ("constant", "linear", "cosine"),
    "train.batching": ("shuffled", "grouped", "packed"),
}

FLAGS = ("data.shuffle", "data.train_on_completions", "lora.rslora", "train.grad_checkpoint", "model.train_vision")

PATHS = ("model.path", "model.adapter_path", "data.path", "data.valid_path", "output.path", "features.path")

Way = Callable[[random.Random, Path], tuple[str, str, tuple[str, ...]]]


def generate(rng: random.Random, work: Path, _: Path) -> Trial:
    """Write a recipe and look at its rows; what only a run can find, in a run."""
    what, expected, says = rng.choice(WAYS)(rng, work)
    if (work / "arguments").exists():
        arguments = (work / "arguments").read_text(encoding="utf-8").split("\n")
    else:
        arguments = ["inspect", "recipe.toml", "--rows", "1"]
    return Trial(what=what, arguments=tuple(arguments), expected=expected, says=says)  # type: ignore[arg-type]


def write(work: Path, key: str, value: Any) -> None:
    """Write a recipe with a key of its own."""
    section, _, name = key.partition(".")
    recipe = {part: dict(keys) for part, keys in BASE.items()}
    if key == "train.epochs":
        del recipe["train"]["iters"]
    recipe.setdefault(section, {})[name] = value
    (work / "recipe.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")


def no_toml(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Write what is no TOML."""
    text = tomli_w.dumps(BASE)
    ways: dict[str, bytes] = {
        "JSON": b'{"data": {"path": "a"}}',
        "a key twice": (text + '\n[data]\npath = "b"\n').encode(),
        "cut off": text[: rng.randrange(3, 20)].encode() + b'"',
        "nested deeply": ("a = " + "[" * DEPTH + "]" * DEPTH).encode(),
        "a number of 5,000 digits": (text + f"\n[eval]\nanswer_rows = {'9' * 5000}\n").encode(),
        "Latin-1": (text + "# \xe4\n").encode("latin-1"),
        "UTF-16": text.encode("utf-16"),
        "bytes": bytes(rng.randrange(256) for _ in range(100)) + b"\xff=",
        "a NUL": (text + "\0").encode(),
        "YAML": b"data:\n  path: a\n",
        "a list of tables": b'[[data]]\npath = "a"\n',
        "a section that is a number": b"data = 3\n",
        "empty": b"",
    }
    what = rng.choice(list(ways))
    (work / "recipe.toml").write_bytes(ways[what])
    return f"the recipe is {what}", "refused", ("recipe.toml",)


def no_recipe(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Put something else where the recipe is looked for."""
    write(work, "train.seed", 1)
    what = break_file(rng, work / "recipe.toml")
    if what == "a named pipe":
        # A shell gives one for <(...), and it is waited for.
        (work / "recipe.toml").unlink()
    return f"recipe.toml: there is {what}", "refused", ("recipe.toml",)


def unknown_key(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Misspell a key."""
    key = rng.choice([*COUNTS, *NUMBERS, *FLAGS])
    section, _, name = key.partition(".")
    place = rng.randrange(len(name))
    wrong = rng.choice([name[:place] + name[place + 1 :] + "q", name + "s" * 3, name.upper(), "", "\u00e9" + name])
    write(work, f"{section}.{wrong}", 1)
    return f"{section}.{wrong}", "refused", (wrong,)


def no_count(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a whole number that is none, or one that cannot be."""
    key = rng.choice(list(COUNTS))
    least, most = COUNTS[key]
    value = rng.choice([*WRONG["int"], least - 1, most + 1, -(2**63)])
    while type(value) is int and least <= value <= most:
        value = rng.choice(WRONG["int"])
    write(work, key, value)
    return f"{key} = {show(value)}", "refused", (key,)


def no_number(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a number that is none, or one that cannot be."""
    key = rng.choice(list(NUMBERS))
    value = rng.choice([*WRONG["number"], -1.0, 1e300 if key.endswith("_gb") else -1e300])
    write(work, key, value)
    return f"{key} = {show(value)}", "refused", (key,)


def no_choice(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a word that is none of those that there are."""
    key = rng.choice([*CHOICES, *FLAGS])
    wrong = WRONG["flag"] if key in FLAGS else (*WRONG["text"], "", "none", "Adamw ", "\0")
    value = rng.choice(wrong)
    write(work, key, value)
    return f"{key} = {show(value)}", "refused", (key,)


def no_pair(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give lists that are of other things, or of another length."""
    key = rng.choice(("data.image_resize_shape", "optim.betas", "lora.targets"))
    wrong: dict[str, tuple[Any, ...]] = {
        "data.image_resize_shape": ([1], [1, 2, 3], [0, 5], [-1, 5], [2**40, 2**40], [2**16, 8], ["8", 8], 8, {"a": 1}),
        "optim.betas": ([0.9], [0.9, 1.0], [-0.1, 0.5], ["a", 0.9], [math.nan, 0.5], 0.9),
        "lora.targets": ("q_proj", [""], ["re:("], ["re:"], [3], [["q_proj"]], {"a": 1}),
    }
    value = rng.choice(wrong[key])
    write(work, key, value)
    return f"{key} = {show(value)}", "refused", (key,)


def no_path(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a path that cannot be one; it is looked for when the run begins."""
    key = rng.choice(PATHS)
    values = [
        "",
        "a\0b",
        "\0",
        "~nosuchuser/a",
        "x" * 5000,
        "a/" * 3000 + "b",
        "/dev/null/a",
        "/proc/nowhere/a",
        3,
        ["a"],
    ]
    value = rng.choice(values)
    write(work, key, value)
    sets = ["--set", "features.cache=true"] if key == "features.path" else []
    (work / "arguments").write_text("\n".join(["recipe.toml", *sets]), encoding="utf-8")
    if key == "features.path" and isinstance(value, str) and value and "\0" not in value and "~" not in value:
        # Features that cannot be written are not kept, which is said; the run goes on.
        return f"{key} = {show(value)}", "accepted", ()
    return f"{key} = {show(value)}", "refused", ()


def no_argument(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Type what is no command."""
    write(work, "train.seed", 1)
    ways = (
        ("--set train.itrs=3", ["recipe.toml", "--set", "train.itrs=3"]),
        ("--set without =", ["recipe.toml", "--set", "train.iters"]),
        ("--set with a huge number", ["recipe.toml", "--set", f"train.iters={'9' * 5000}"]),
        ("--set nested deeply", ["recipe.toml", "--set", "train.iters=" + "[" * 20_000]),
        ("an option that there is not", ["recipe.toml", "--no-such-option"]),
        ("a word for a number", ["--dataset", "builtin:digits", "--iters", "many"]),
        ("a negative number", ["--dataset", "builtin:digits", "--batch-size", "-4"]),
        ("a huge number", ["--dataset", "builtin:digits", "--iters", "9" * 5000]),
        ("infinity", ["--dataset", "builtin:digits", "--learning-rate", "inf"]),
        ("bytes that are not UTF-8", ["--dataset", "a\udc80\udcff"]),
        ("two recipes", ["recipe.toml", "recipe.toml"]),
        ("nothing", [""]),
        ("rows below one", ["inspect", "recipe.toml", "--rows", "-3"]),
        ("no memory", ["plan", "recipe.toml", "--memory-gb", "nan"]),
        ("nothing to go on from", ["recipe.toml", "--resume"]),
    )
    what, arguments = rng.choice(ways)
    (work / "arguments").write_text("\n".join(arguments), encoding="utf-8", errors="surrogateescape")
    if "UTF-8" in what:
        (work / "arguments").write_text("--dataset\na\\udc80", encoding="utf-8")
    return what, "refused", ()


def nothing_wrong(rng: random.Random, work: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a value that can be."""
    kind = rng.choice(("count", "number", "choice", "flag"))
    if kind == "count":
        key = rng.choice(list(COUNTS))
        least, most = COUNTS[key]
        # Of shorter rows nothing is left to learn, and inspect says so.
        least = LONG_ENOUGH if key == "data.max_seq_length" else least
        value: Any = rng.choice((least, least + 1, min(most, 1000), most))
    elif kind == "number":
        key = rng.choice(list(NUMBERS))
        value = rng.choice(NUMBERS[key])
    elif kind == "choice":
        key = rng.choice(list(CHOICES))
        value = rng.choice(CHOICES[key])
    else:
        key, value = rng.choice(FLAGS), rng.random() < 0.5  # noqa: PLR2004 - one or the other
    write(work, key, value)
    return f"{key} = {show(value)}", "accepted", ()


WAYS: tuple[Way, ...] = (
    no_toml,
    no_recipe,
    unknown_key,
    no_count,
    no_count,
    no_number,
    no_choice,
    no_pair,
    no_path,
    no_argument,
    nothing_wrong,
    nothing_wrong,
)
