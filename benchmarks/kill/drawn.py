"""Runs of recipes drawn at random that are killed at random moments: abilities together, and not each for itself.

    python -m benchmarks.kill --drawn 40 --seed 7

Objective, batching, adapter, optimizer, features, streams, validation, answers, what is kept and the number of devices
are drawn; what `parse_recipe` refuses is drawn again. Each recipe runs once without being killed. Another run of it is
killed with SIGKILL once or twice, behind a random line of its output and a random part of a second more, and gone on
with. In the end all files have to be equal, as in the other benchmarks of killed runs.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from vlora import parse_recipe
from vlora.errors import RecipeError
from vlora.recipe.schema import OPTIMIZERS

from .modes import FEATURES, OUTPUT, PAIRS_NAME, PARTS, RECIPE_NAME, ROWS_NAME, TAR_NAME, write_rows
from .outcome import describe, differences, list_unloadable

POLL_S = 0.02
MOST_S = 120.0
"""How long a run of a few steps may take: one that takes longer hangs."""

TWICE = 30
"""Percent of the runs that are killed once more after they went on."""

Keys = dict[str, Any]


@attrs.frozen(kw_only=True)
class Drawn:
    """A recipe, and on how many devices it runs.

    Attributes:
        text: The recipe.
        n_devices: Processes that MLX's ring connects; 1 for an ordinary run.
    """

    text: str
    n_devices: int


def draw_recipe(seed: int, most_devices: int = 2) -> Drawn:
    """Draw a recipe that contradicts itself nowhere; the same seed draws the same one."""
    draw = random.Random(seed)  # noqa: S311 - no secrets
    while True:
        n_devices = draw.choice([1, 1, most_devices])
        text = tomli_w.dumps(_draw_keys(draw))
        with contextlib.suppress(RecipeError):
            parse_recipe(text)
            return Drawn(text=text, n_devices=n_devices)


def _happens(draw: random.Random, percent: int) -> bool:
    return draw.randrange(100) < percent


def _draw_keys(draw: random.Random) -> Keys:
    objective = draw.choice(["sft", "sft", "sft", "dpo", "kto", "orpo", "cpo"])
    is_full = _happens(draw, 20)
    validates = _happens(draw, 60)
    rows = ROWS_NAME if objective == "sft" else PAIRS_NAME
    recipe: Keys = {
        "model": {"path": "builtin:tiny-qwen3-vl", "full_finetune": is_full, "train_vision": _happens(draw, 25)},
        "data": _draw_data(draw, rows) | ({"valid_path": rows} if validates else {}),
        "features": _draw_features(draw),
        "optim": {
            "name": draw.choice(OPTIMIZERS),
            "learning_rate": draw.choice([1e-4, 1e-3]),
            "schedule": draw.choice(["constant", "linear", "cosine"]),
            "warmup_steps": draw.choice([0, 2]),
            **draw.choice([{}, {"grad_clip": 0.5}]),
        },
        "train": _draw_train(draw, objective) | (_draw_stop(draw) if validates else {}),
        "eval": {"answer_rows": draw.choice([0, 3]), "answer_every": draw.choice([0, 2]), "max_new_tokens": 2},
        "output": {"path": OUTPUT, "report": _happens(draw, 30), **draw.choice([{}, {"keep_last": 1}])},
    }
    if not validates:
        recipe["eval"] = {}
    elif _happens(draw, 40):
        recipe["output"]["keep_best"] = "valid_loss"
    if not is_full:
        recipe["lora"] = _draw_lora(draw, objective)
        recipe["model"] |= draw.choice([{}, {}, {}, {"quantize_bits": 4, "quantize_group_size": 32}])
    if objective != "sft" and _happens(draw, 40):
        recipe["preference"] = {"precompute": True}
    return recipe


def _draw_data(draw: random.Random, rows: str) -> Keys:
    data: Keys = {
        "train_on_completions": _happens(draw, 70),
        "workers": draw.choice([0, 1, 3]),
        "prefetch": draw.choice([1, 2, 4]),
        "max_seq_length": draw.choice([40, 128]),
        "on_long_row": draw.choice(["cut", "skip"]),
        "shuffle": _happens(draw, 80),
    }
    kind = draw.choice(["rows", "rows", "rows", "streamed", "mixture", "streamed mixture"])
    if kind.startswith("streamed"):
        data |= {"streaming": True, "shuffle_buffer": draw.choice([2, 5])}
    if not kind.endswith("mixture"):
        return {**data, "path": rows if kind == "rows" or rows == PAIRS_NAME else PARTS.format("*")}
    weights = draw.choice([({}, {}), ({"weight": 2}, {"weight": 1})])
    paths = (rows, rows) if rows == PAIRS_NAME else (PARTS.format("*"), TAR_NAME)
    return {**data, "sources": [{"path": path, **weight} for path, weight in zip(paths, weights, strict=True)]}


def _draw_features(draw: random.Random) -> Keys:
    # Without a disk such a run goes on up to rounding, as it says.
    kept = {"path": FEATURES, "disk_gb": 0.1}
    return draw.choice([{"cache": False}, kept, kept, {**kept, "memory_gb": 0.0}, {**kept, "memory_gb": 1e-5}])


def _draw_lora(draw: random.Random, objective: str) -> Keys:
    return {
        "rank": draw.choice([1, 4]),
        "dropout": 0.1 if objective == "sft" and _happens(draw, 50) else 0.0,
        "method": draw.choice(["lora", "lora", "dora"]),
        "rslora": _happens(draw, 30),
        "targets": draw.choice([[], ["attention"], ["language", "connector"], ["q_proj", "re:.*gate_proj"]]),
        "init": draw.choice(["default", "default", "pissa"]),
        "train_embeddings": _happens(draw, 15),
        "train_head": _happens(draw, 15),
    }


def _draw_train(draw: random.Random, objective: str) -> Keys:
    return {
        "objective": objective,
        "batch_size": draw.choice([1, 2, 3]),
        "batching": draw.choice(["shuffled", "shuffled", "grouped", "packed"]),
        "gradient_accumulation_steps": draw.choice([1, 1, 2]),
        "grad_checkpoint": _happens(draw, 20),
        "seed": draw.randrange(100),
        "steps_per_report": draw.choice([1, 2]),
        "steps_per_eval": draw.choice([2, 3]),
        "steps_per_save": draw.choice([1, 2, 3]),
        "val_batches": draw.choice([1, 2, -1]),
        **draw.choice([{"iters": 7}, {"iters": 12}, {"epochs": 2}, {"epochs": 3}]),
    }


def _draw_stop(draw: random.Random) -> Keys:
    return {"early_stopping_patience": 2} if _happens(draw, 20) else {}


def kill_drawn(
    root: Path, n_recipes: int, seed: int, say: Callable[[str], None], most_devices: int = 2
) -> dict[str, Any]:
    """Kill a run of each of several recipes, and compare it with one that nobody kills.

    Args:
        root: A folder for the runs; those of recipes of which all is well are removed.
        n_recipes: How many.
        seed: That of the first recipe; the next one's is one more.
        say: Is given a line for each.
        most_devices: On so many or on one.

    Returns:
        Counts, and the seeds of what was not equal.
    """
    began, wrong, n_killed = time.perf_counter(), [], 0
    for number in range(seed, seed + n_recipes):
        drawn, draw = draw_recipe(number, most_devices), random.Random(-1 - number)  # noqa: S311 - no secrets
        # What a run remembers of its rows has their files' times, so both have the same ones.
        rows = _make_rows(root / f"{number}-rows", drawn.text)
        whole, killed = (Path(shutil.copytree(rows, root / f"{number}-{name}")) for name in ("whole", "killed"))
        status = _end(_start(whole, drawn.n_devices))
        n_lines = len((whole / "printed.txt").read_bytes().splitlines())
        moments = [(draw.randrange(n_lines), round(draw.uniform(0, 1), 2)) for _ in range(1 + _happens(draw, TWICE))]
        n_killed += sum(_kill(killed, drawn.n_devices, moment, draw) for moment in moments)
        found = [] if status == _end(_start(killed, drawn.n_devices)) else ["another exit status"]
        expected = describe(whole)
        found += differences(describe(killed), expected) + list_unloadable(killed, expected)
        wrong += [number] * bool(found)
        if not found:
            for slot in (rows, whole, killed):
                shutil.rmtree(slot)
        say(
            f"{number}: {'WRONG' if found else 'fine'}, status {status}, {drawn.n_devices} devices, killed at {moments}"
        )
        for line in found:
            say(f"  {line[:300]}")
    return {
        "seed": seed,
        "seconds": round(time.perf_counter() - began),
        "recipes": n_recipes,
        "killed": n_killed,
        "equal": n_recipes - len(wrong),
        "wrong": wrong,
    }


def _make_rows(slot: Path, text: str) -> Path:
    slot.mkdir(parents=True)
    write_rows(slot)
    (slot / RECIPE_NAME).write_text(text, encoding="utf-8")
    return slot


def _start(slot: Path, n_devices: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "vlora", RECIPE_NAME, "--resume-or-start"]
    with (slot / "printed.txt").open("ab") as printed:
        return subprocess.Popen(
            [*command, *(["--devices", str(n_devices)] if n_devices > 1 else [])],
            cwd=slot,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=printed,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _end(run: "subprocess.Popen[bytes]") -> int:
    """Wait for the end of a run; one that hangs is killed, and has the status of that."""
    try:
        return run.wait(MOST_S)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        return run.wait()


def _kill(slot: Path, n_devices: int, moment: tuple[int, float], draw: random.Random) -> bool:
    """Start a run and kill one of its processes; whether it was running still."""
    run = _start(slot, n_devices)
    printed, begun = slot / "printed.txt", len((slot / "printed.txt").read_bytes().splitlines())
    ended = time.monotonic() + MOST_S
    while run.poll() is None and time.monotonic() < ended:
        if len(printed.read_bytes().splitlines()) - begun >= moment[0]:
            break
        time.sleep(POLL_S)
    time.sleep(moment[1])
    processes = list(_find_children(run.pid)) if n_devices > 1 else [run.pid]
    is_running = run.poll() is None and bool(processes)
    if is_running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(sorted(processes)), signal.SIGKILL)
    _end(run)
    return is_running


def _find_children(process: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
