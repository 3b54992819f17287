"""Saved adapters of which one thing is wrong, or none: configurations, headers, arrays."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from .broken import break_file, break_json, drop, put, show, wrong_value
from .models import break_header, training
from .trials import Trial

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
METHODS = ("lora", "dora", "tables")

ACCEPTED: tuple[str, tuple[str, ...]] = ("accepted", ())
REFUSED: tuple[str, tuple[str, ...]] = ("refused", ("adapter",))

Way = Callable[[random.Random, Path], tuple[str, str, tuple[str, ...]]]


def build(shared: Path, *, is_short: bool) -> None:
    """Train the adapters that are copied; one of each kind but for a short run."""
    from vlora.cli.main import main

    sets = {"lora": (), "dora": ("lora.method=dora",), "tables": ("lora.train_head=true",)}
    for method in METHODS[:1] if is_short else METHODS:
        folder = shared / "adapters" / method
        arguments = [*training(), "--model-path", "builtin:tiny-qwen3-vl", "--output-path", str(folder / WEIGHTS)]
        if main([*arguments, *(part for one in sets[method] for part in ("--set", one))]):
            msg = f"no adapter of the kind {method}"
            raise RuntimeError(msg)
        shutil.rmtree(folder / "training")


def generate(rng: random.Random, work: Path, shared: Path) -> Trial:
    """Copy an adapter, break it in one way, and go on from it."""
    method = rng.choice([method for method in METHODS if (shared / "adapters" / method).exists()])
    shutil.copytree(shared / "adapters" / method, work / "adapter")
    shutil.copytree(shared / "adapters" / "tiny-qwen3-vl", work / "tiny-qwen3-vl")
    what, expected, says = rng.choice(WAYS)(rng, work / "adapter")
    path = "adapter" if rng.random() < 0.5 else f"adapter/{WEIGHTS}"  # noqa: PLR2004 - one or the other
    return Trial(
        what=f"{method}: {what}",
        arguments=(*training(), "--model-path", "tiny-qwen3-vl", "--adapter-path", path),
        expected=expected,  # type: ignore[arg-type]
        says=says,
    )


def no_json(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Make the configuration no JSON object."""
    what, data = break_json(rng, (folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_bytes(data)
    return f"{CONFIG} is {what}", "refused", (CONFIG,)


def no_file(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Take one of the files away, or put something else there."""
    name = rng.choice((CONFIG, WEIGHTS))
    return f"{name}: there is {break_file(rng, folder / name)}", "refused", (name,)


def no_value(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give a key a value that is none, or take the key away."""
    config = _read(folder)
    key = rng.choice(("rank", "scale", "dropout", "keys", "fine_tune_type", "lora_parameters"))
    place = (key,) if key in config else ("lora_parameters", key)
    wrong: dict[str, Callable[[], Any]] = {
        "rank": lambda: rng.choice([wrong_value(rng, "int"), 0, None, 3, 10**6]),
        "scale": lambda: rng.choice([wrong_value(rng, "number"), None]),
        "dropout": lambda: rng.choice([wrong_value(rng, "number"), -0.5, 1.0, 7, None]),
        "keys": lambda: rng.choice([[3], [None], [], "q_proj", {"a": 1}, ["no.such.layer"], [""], None, [["a"]]]),
        "fine_tune_type": lambda: rng.choice([3, None, "", "full", "ia3", ["lora"], True]),
        "lora_parameters": lambda: rng.choice([wrong_value(rng, "object"), None, {}]),
    }
    if rng.random() < 0.15 and key != "dropout":  # noqa: PLR2004 - now and then
        _write(folder, drop(config, place))
        # As mlx-lm writes them: the arrays name the layers, and those of a LoRA are no others.
        is_known = key == "keys" or (key == "fine_tune_type" and config[key] == "lora")
        return f"{CONFIG} without {key}", *(ACCEPTED if is_known else REFUSED)
    value = wrong[key]()
    _write(folder, put(config, place, value))
    is_known = key == "keys" and value in (None, [])
    return f"{CONFIG} {'.'.join(place)} = {show(value)}", *(ACCEPTED if is_known else REFUSED)


def no_others(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Give keys that an adapter need not have values that are none."""
    changes: list[tuple[str, Any]] = [
        ("trained_tables", "head"),
        ("trained_tables", ["no.such.table"]),
        ("trained_tables", [3]),
        ("trained_tables", ["language_model.model.layers.0"]),
        ("adapted_layers", {"a": 1}),
        ("adapted_layers", ["a", 2]),
        ("adapted_layers", ["no.such.layer"]),
        ("base_quantization", [4]),
        ("base_quantization", {"a": 3}),
        ("base_quantization", {"a": {"bits": 4, "group_size": 64}}),
        ("num_layers", "all"),
        ("num_layers", 2**70),
    ]
    key, value = rng.choice(changes)
    _write(folder, {**_read(folder), key: value})
    return f"{CONFIG} {key} = {show(value)}", "refused", ("adapter",)


def no_header(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Break the weights' header."""
    return f"{WEIGHTS}: {break_header(rng, folder / WEIGHTS)}", "refused", (WEIGHTS,)


def no_arrays(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Write arrays that are not the model's."""
    import mlx.core as mx

    arrays = _load(folder)
    name = rng.choice([name for name in arrays if "lora" in name])
    value = arrays[name]
    what = rng.choice(
        ("missing", "called otherwise", "one more", "turned", "of integers", "empty", "of rank 1", "none")
    )
    others = {
        "turned": value.T,
        "of integers": value.astype(mx.int32),
        "empty": mx.zeros((0, 8)),
        "of rank 1": mx.zeros((value.size,)),
    }
    if what in ("missing", "called otherwise"):
        del arrays[name]
    if what == "called otherwise":
        arrays[f"{name}.x"] = value
    elif what == "one more":
        arrays["language_model.extra.lora_a"] = value
    elif what == "none":
        arrays = {}
    elif what in others:
        arrays[name] = others[what]
    mx.save_safetensors(str(folder / WEIGHTS), arrays)
    return f"{WEIGHTS}: {name} is {what}", "refused", ("adapter",)


def nothing_wrong(rng: random.Random, folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Change what changes nothing."""
    import mlx.core as mx

    config = _read(folder)
    ways: dict[str, Callable[[], object]] = {
        "as it was": lambda: None,
        "keys in another order": lambda: _write(folder, dict(reversed(config.items()))),
        "keys that nobody knows": lambda: _write(folder, {**config, "zz_note": [1, {"a": None}, "x"]}),
        "null for what it need not have": lambda: _write(folder, {**config, "base_quantization": None}),
        "other files": lambda: (folder / "notes.txt").write_bytes(b"\xff\x00"),
        "arrays in another order": lambda: mx.save_safetensors(
            str(folder / WEIGHTS), dict(reversed(_load(folder).items()))
        ),
    }
    what = rng.choice(list(ways))
    ways[what]()
    return what, "accepted", ()


WAYS: tuple[Way, ...] = (no_json, no_file, no_value, no_value, no_others, no_header, no_arrays, nothing_wrong)


def _load(folder: Path) -> dict[str, Any]:
    import mlx.core as mx

    return cast("dict[str, Any]", mx.load(str(folder / WEIGHTS)))


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return found


def _write(folder: Path, value: Any) -> None:
    (folder / CONFIG).write_text(json.dumps(value), encoding="utf-8")
