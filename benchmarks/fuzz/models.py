"""Model folders: configurations, index files, headers and tokenizers of which one thing is wrong, or none."""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .broken import break_file, break_json, drop, put, show, wrong_value
from .trials import Trial

FAMILIES = ("builtin", "qwen2_vl", "qwen3_vl", "gemma3", "idefics3", "llava")
"""Those whose folders are broken; the first one is vlora's own model."""

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
"""Keys of a language model that every family reads, and none has a use for another value of."""

NUMBERS = ("rms_norm_eps", "rope_theta", "layer_norm_eps", "initializer_range", "attention_dropout")

FILES = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "generation_config.json",
    "chat_template.json",
)

PROCESSOR = "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

Way = Callable[[random.Random, Path], tuple[str, str, tuple[str, ...]]]
"""Breaks a folder; gives what was done, what is to come of it, and what the sentence has to name."""


def build(shared: Path, *, is_short: bool) -> None:
    """Write the folders that are copied; only vlora's own for a short run."""
    from tests.checkpoints import build_checkpoint
    from vlora import models

    for family in FAMILIES[:1] if is_short else FAMILIES:
        if family == "builtin":
            models.build_tiny_qwen3_vl(shared / family)
        else:
            build_checkpoint(family, shared / family)


def generate(rng: random.Random, work: Path, shared: Path) -> Trial:
    """Copy a model's folder, break it in one way, and train a step on it."""
    family = rng.choice([family for family in FAMILIES if (shared / family).exists()])
    folder = work / "model"
    shutil.copytree(shared / family, folder)
    way = rng.choice(WAYS)
    what, expected, says = way(rng, folder)
    return Trial(
        what=f"{family}: {what}",
        arguments=(*training(), "--model-path", "model"),
        expected=expected,  # type: ignore[arg-type]
        says=says,
    )


def training() -> tuple[str, ...]:
    """Give the options of a run of one step on two rows."""
    sets = ("data.workers=0", "features.cache=false", "train.steps_per_report=1")
    return (
        *("--dataset", "builtin:digits", "--iters", "1", "--batch-size", "1", "--output-path", "out/a.safetensors"),
        *(part for one in sets for part in ("--set", one)),
    )


def no_json(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Make one of the JSON files none."""
    name = rng.choice([name for name in FILES if (folder / name).exists()])
    what, data = break_json(rng, (folder / name).read_text(encoding="utf-8"))
    (folder / name).write_bytes(data)
    return f"{name} is {what}", "refused", (name,)


def no_file(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Take one of the files away, or put something else there."""
    name = rng.choice([name for name in ("config.json", "tokenizer.json", WEIGHTS) if (folder / name).exists()])
    what = break_file(rng, folder / name)
    return f"{name}: there is {what}", "refused", ("model",)


def no_size(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a size that is none."""
    config = _read(folder / "config.json")
    place = rng.choice(_places(config, SIZES))
    value = rng.choice([wrong_value(rng, "int"), None, 0]) if rng.random() < 0.9 else -7  # noqa: PLR2004
    _write(folder / "config.json", put(config, place, value))
    # What is null counts as absent where a family allows that, and then the weights are what does not fit.
    says = ("config.json",) if value is None else ("config.json", place[-1])
    return f"config.json {'.'.join(place)} = {show(value)}", "refused", says


def other_size(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a size that the weights do not have."""
    config = _read(folder / "config.json")
    place = rng.choice(_places(config, ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers")))
    value = _find(config, place) * rng.choice((2, 3, 8))
    _write(folder / "config.json", put(config, place, value))
    return f"config.json {'.'.join(place)} = {value}, which the weights do not have", "refused", ()


def no_number(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a number that is none."""
    config = _read(folder / "config.json")
    places = _places(config, NUMBERS)
    if not places:
        return no_size(rng, folder)
    place, value = rng.choice(places), wrong_value(rng, "number")
    _write(folder / "config.json", put(config, place, value))
    return f"config.json {'.'.join(place)} = {show(value)}", "refused", ("config.json", place[-1])


def no_section(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a section that is none."""
    config = _read(folder / "config.json")
    places = [(key,) for key, value in config.items() if isinstance(value, dict) and key.endswith("_config")]
    place, value = rng.choice(places or [("text_config",)]), wrong_value(rng, "object")
    _write(folder / "config.json", put(config, place, value))
    return f"config.json {place[0]} = {show(value)}", "refused", ("config.json", place[0])


def no_type(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give the model a type that there is none of, or none."""
    config = _read(folder / "config.json")
    value = rng.choice([*(wrong_value(rng, "text") for _ in range(3)), "", None, "no_such_model", "../qwen3_vl", "a.b"])
    changed = drop(config, ("model_type",)) if rng.random() < 0.2 else put(config, ("model_type",), value)  # noqa: PLR2004
    changed.pop("architectures", None)
    _write(folder / "config.json", changed)
    return f"config.json model_type = {show(value)}", "refused", ("model_type",)


def no_processor(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give the processor a setting that is none."""
    name = PROCESSOR
    config = _read(folder / name)
    kinds = {"patch_size": "int", "merge_size": "int", "temporal_patch_size": "int", "size": "list"}
    kinds |= {"image_mean": "object", "image_std": "object"}
    known = [key for key in kinds if key in config]
    if not known:
        return no_json(rng, folder)
    key = rng.choice(known)
    value = rng.choice(
        [
            "x",
            float("inf") if key == "image_mean" else -1.5,
            {"a": "b"} if kinds[key] == "int" else "y",
            [None],
            True,
            float("nan"),
        ]
    )
    _write(folder / name, put(config, (key,), value))
    return f"{name} {key} = {show(value)}", "refused", (name, key)


def no_header(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Break the weights' header."""
    return f"{WEIGHTS}: {break_header(rng, folder / WEIGHTS)}", "refused", (WEIGHTS,)


def break_header(rng: random.Random, path: Path) -> str:
    """Break the header of a safetensors file.

    Returns:
        What is wrong with it.
    """
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry = header[name]
    begin, end = entry["data_offsets"]
    changes: dict[str, dict[str, Any]] = {
        "beyond the file": {"data_offsets": [begin, end + 10**9]},
        "offsets of 2**63": {"data_offsets": [2**63, 2**63 + 8]},
        "negative offsets": {"data_offsets": [-8, end]},
        "offsets turned round": {"data_offsets": [end, begin]},
        "another shape": {"shape": [*entry["shape"], 2]},
        "a negative shape": {"shape": [-4, -4]},
        "a huge shape": {"shape": [2**40, 2**40]},
        "no type": {"dtype": "X9"},
        "a type that is none": {"dtype": 3},
        "no shape": {"shape": None},
        "a shape of text": {"shape": ["4"]},
        "offsets that are none": {"data_offsets": "ab"},
    }
    what = rng.choice([*changes, "cut off", "a length of 2**63", "a length of 0", "no JSON", "a list", "entry null"])
    if what in changes:
        header[name] = {**entry, **changes[what]}
    elif what == "entry null":
        header[name] = None
    text = json.dumps(header).encode()
    broken = {
        "cut off": data[: rng.randrange(0, len(data) - 1)],
        "a length of 2**63": struct.pack("<Q", 2**63) + data[8:],
        "a length of 0": struct.pack("<Q", 0) + data[8:],
        "no JSON": data[:8] + b"x" * length + data[8 + length :],
        "a list": struct.pack("<Q", 2) + b"[]" + data[8 + length :],
    }
    path.write_bytes(broken.get(what, struct.pack("<Q", len(text)) + text + data[8 + length :]))
    return what


def no_index(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Write an index that leads elsewhere, or nowhere."""
    names = _tensor_names(folder / WEIGHTS)
    shutil.copy(folder / WEIGHTS, folder.parent / "outside.safetensors")
    right: dict[str, Any] = dict.fromkeys(names, WEIGHTS)
    one = rng.choice(names)
    maps: dict[str, Any] = {
        "a shard outside": dict.fromkeys(names, "../outside.safetensors"),
        "an absolute shard": dict.fromkeys(names, str(folder.parent / "outside.safetensors")),
        "one shard outside": right | {one: "../outside.safetensors"},
        "a missing shard": right | {one: "model-00002-of-00002.safetensors"},
        "a shard null": right | {one: None},
        "a shard 3": right | {one: 3},
        "a shard with NUL": right | {one: "a\0b.safetensors"},
        "an empty shard": right | {one: ""},
        "a shard that is the folder": right | {one: "."},
        "a shard that is no safetensors": right | {one: "config.json"},
        "a map null": None,
        "a map that is a list": names,
        "a map of text": "model",
    }
    what = rng.choice([*maps, "no map", "no JSON"])
    if what == "no JSON":
        what, data = break_json(rng, json.dumps({"metadata": {}, "weight_map": right}))
        (folder / INDEX).write_bytes(data)
    else:
        _write(folder / INDEX, {"metadata": {}} if what == "no map" else {"metadata": {}, "weight_map": maps[what]})
    return f"{INDEX}: {what}", "refused", (INDEX,)


def nothing_wrong(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Change what changes nothing."""
    config = _read(folder / "config.json")
    ways: dict[str, Callable[[], object]] = {
        "as it was": lambda: None,
        "keys in another order": lambda: _write(folder / "config.json", dict(reversed(config.items()))),
        "keys that nobody knows": lambda: _write(folder / "config.json", {**config, "zz_note": [1, {"a": None}, "x"]}),
        "other files": lambda: (folder / "notes.txt").write_bytes(b"\xff\x00"),
        "an index": lambda: _write(
            folder / INDEX, {"metadata": {}, "weight_map": dict.fromkeys(_tensor_names(folder / WEIGHTS), WEIGHTS)}
        ),
        "a version": lambda: _write(folder / "config.json", {**config, "transformers_version": "5.1.0"}),
    }
    what = rng.choice(list(ways))
    ways[what]()
    return what, "accepted", ()


WAYS: tuple[Way, ...] = (
    no_json,
    no_file,
    no_size,
    no_size,
    other_size,
    no_number,
    no_section,
    no_type,
    no_processor,
    no_header,
    no_index,
    nothing_wrong,
)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _places(config: dict[str, Any], keys: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Name the places of keys of the language model."""
    inner = config.get("text_config")
    if isinstance(inner, dict) and "hidden_size" in inner:
        return [("text_config", key) for key in keys if inner.get(key) is not None]
    return [(key,) for key in keys if config.get(key) is not None]


def _find(tree: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


def _tensor_names(path: Path) -> list[str]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return [name for name in header if name != "__metadata__"]
