"""Folders of runs to go on with, of which one file is damaged, or none."""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from .broken import break_file
from .models import break_header, training
from .trials import Trial

STATE = "training/state.safetensors"
WHOLE = ("metrics.jsonl", "recipe.toml", "a.safetensors", "adapter_config.json")
"""What a run that goes on does not read, or makes anew."""

Way = Callable[[random.Random, Path], tuple[str, str]]


def _arguments(n_steps: int) -> tuple[str, ...]:
    given = list(training())
    given[given.index("--iters") + 1] = str(n_steps)
    return (*given, "--model-path", "tiny-qwen3-vl", "--set", "train.steps_per_save=1")


def build(shared: Path, *, is_short: bool) -> None:
    """Make the run that is copied: one step, with its state."""
    import os

    del is_short
    from vlora.cli.main import main

    (shared / "states").mkdir()
    os.chdir(shared / "states")
    given = [*_arguments(1)]
    given[given.index("tiny-qwen3-vl")] = "builtin:tiny-qwen3-vl"
    if main(given) or main([*_arguments(1)]):
        msg = "no run to go on with"
        raise RuntimeError(msg)


def generate(rng: random.Random, work: Path, shared: Path) -> Trial:
    """Copy a run, damage it in one way, and go on with it."""
    for name in ("out", "tiny-qwen3-vl"):
        shutil.copytree(shared / "states" / name, work / name)
    what, expected = rng.choice(WAYS)(rng, work / "out")
    n_steps = 1 if expected == "refused" and rng.random() < 0.5 else 2  # noqa: PLR2004 - one or the other
    return Trial(what=what, arguments=(*_arguments(n_steps), "--resume"), expected=expected)  # type: ignore[arg-type]


def no_state(rng: random.Random, out: Path) -> tuple[str, str]:
    """Put something else in the place of the only state."""
    _only_state(out)
    return f"the state: there is {break_file(rng, out / STATE)}", "refused"


def no_header(rng: random.Random, out: Path) -> tuple[str, str]:
    """Break the header of the only state."""
    _only_state(out)
    return f"the state: {break_header(rng, out / STATE)}", "refused"


def other_bytes(rng: random.Random, out: Path) -> tuple[str, str]:
    """Change a byte of the only state's arrays: its checksums know."""
    _only_state(out)
    data = bytearray((out / STATE).read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    place = rng.randrange(8 + length, len(data))
    data[place] ^= 1 << rng.randrange(8)
    (out / STATE).write_bytes(data)
    return f"the state: another byte {place}", "refused"


def other_notes(rng: random.Random, out: Path) -> tuple[str, str]:
    """Change what the only state says of its run."""
    _only_state(out)
    path = out / STATE
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    notes = header["__metadata__"]
    ways: dict[str, tuple[str, str]] = {
        "no TOML": ("recipe", "[["),
        "another recipe": ("recipe", notes["recipe"].replace("seed = 0", "seed = 1")),
        "no number of rows": ("n_rows", "many"),
        "another number of rows": ("n_rows", "7"),
    }
    what = rng.choice(list(ways))
    key, value = ways[what]
    header["__metadata__"] = {**notes, key: value}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return f"the state's notes: {what}", "refused"


def other_files(rng: random.Random, out: Path) -> tuple[str, str]:
    """Damage or take away what a run that goes on makes anew, or nothing."""
    name = rng.choice((None, *WHOLE))
    if name is None:
        return "as it was", "accepted"
    what = rng.choice(("taken away", "cut off"))
    data = (out / name).read_bytes()
    (out / name).unlink()
    if what == "cut off":
        (out / name).write_bytes(data[: len(data) // 2])
    return f"{name}: {what}", "accepted"


def no_metrics(rng: random.Random, out: Path) -> tuple[str, str]:
    """Put into the metrics what is no line of them; lines of steps that were done stay as they are."""
    line = rng.choice(("null", "[1]", "not JSON", '{"step": "a"}', '{"step": 1', "\0" * 8, "\ufeff{}"))
    path = out / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    return f"metrics.jsonl with {line!r}", "accepted"


WAYS: tuple[Way, ...] = (no_state, no_header, other_bytes, other_notes, other_files, no_metrics)


def _only_state(out: Path) -> None:
    """Leave one state: a run goes on with the one before it, if there is one."""
    for path in (out / "training").iterdir():
        if path != out / STATE:
            path.unlink()
