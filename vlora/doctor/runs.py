"""Checks of whole runs: in this process with worker threads, and in processes of their own, killed and resumed."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import CheckError
from ..memory.limits import device_kind
from ..output.checkpoint import read_arrays
from ..output.paths import output_paths
from ..recipe.parse import dump_recipe
from ..recipe.schema import Recipe
from ..run.fit import fit
from .comparison import overall_difference
from .job import N_STEPS, SAVE_EVERY, TRAINED, make_recipe

RESUME_TOLERANCES = {"cpu": 0.0, "metal": 1e-2, "cuda": 1e-2}
"""Largest relative difference between a resumed run and an uninterrupted one. GPUs sum embedding gradients in any
order."""

RUN_LIMIT_S = 150.0
"""Time limit of a run in a process of its own, in seconds."""

N_KILLS = 3
"""Number of attempts to kill a run before it ends by itself."""

KEPT_BYTES = 64e6
"""Bytes that may stay allocated on the device after a run: MLX's compiled functions hold constants."""


def check_workers(folder: Path) -> str:
    """Check that a run with worker threads stays on its device, and leaves no threads and no memory behind."""
    recipe = make_recipe(folder, {"train.iters": 3, "data.workers": 2, "lora.rank": 4})
    mx.clear_cache()
    before, threads, held = mx.default_device(), set(threading.enumerate()), mx.get_active_memory()
    devices = {str(mx.default_device()) for _ in fit(recipe)}
    if devices != {str(before)} or mx.default_device() != before:
        msg = f"the run began on {before}, and was found on {', '.join(sorted(devices))}, then {mx.default_device()}"
        raise CheckError(msg)
    left = [thread.name for thread in threading.enumerate() if thread not in threads]
    if left:
        msg = f"threads are left: {', '.join(left)}"
        raise CheckError(msg)
    gc.collect()
    mx.clear_cache()
    kept = mx.get_active_memory() - held
    if kept > KEPT_BYTES:
        msg = f"{kept / 1e6:.0f} MB are still allocated on the device after the run"
        raise CheckError(msg)
    return f"on {before} throughout; {max(kept, 0) / 1e6:.1f} MB allocated afterwards, no thread left"


def check_run(folder: Path) -> str:
    """Check a run in a process of its own, and that a run that is killed and resumed equals it."""
    keys = {
        **TRAINED,
        "train.iters": N_STEPS,
        "train.steps_per_save": SAVE_EVERY,
        "data.workers": 2,
    }
    recipe = make_recipe(folder, {**keys, "output.path": str(folder / "whole" / "model")})
    began = time.perf_counter()
    _run(recipe, folder / "whole.toml")
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in output_paths(recipe).metrics.read_text(encoding="utf-8").splitlines()]
    device = lines[0].get("device")
    if device != device_kind():
        msg = f"the run's metrics.jsonl says that it ran on {device!r}, where this process is on {device_kind()!r}"
        raise CheckError(msg)
    losses = [line["loss"] for line in lines if "loss" in line]
    first, last = np.mean(losses[:3]), np.mean(losses[-3:])
    if len(losses) != N_STEPS or not last < first:
        msg = f"{len(losses)} of {N_STEPS} steps were reported, and the loss went from {first:.4f} to {last:.4f}"
        raise CheckError(msg)
    resumed = _killed_and_resumed(folder, keys)
    whole, other = (read_arrays(output_paths(one).state) for one in (recipe, resumed))
    if set(whole) != set(other):
        msg = f"the training state of a resumed run lacks, or has besides, {', '.join(sorted(set(whole) ^ set(other)))}"
        raise CheckError(msg)
    is_equal = all(mx.array_equal(value, other[name]).item() for name, value in whole.items())
    apart = overall_difference(other, whole)
    if not is_equal and not apart <= RESUME_TOLERANCES[device_kind()]:
        msg = f"a run that was killed and resumed differs from one that was not, by {apart:.1e} of its state's size"
        raise CheckError(msg)
    if not is_equal and device_kind() == "cpu":
        msg = f"a run that was killed and resumed is not bit for bit one that was not ({apart:.1e} apart)"
        raise CheckError(msg)
    equal = "bit for bit equal" if is_equal else f"apart by {apart:.1e} of its state's size"
    return f"{N_STEPS} steps on {device}, loss {first:.2f} to {last:.2f}, {seconds:.0f} s; killed and resumed: {equal}"


def _start(recipe: Recipe, file: Path, *options: str) -> subprocess.Popen[str]:
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    # No network: the model is built here, and the rows are files.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(file.parent / "datasets")}
    command = [sys.executable, "-m", "vlora", str(file), *options]
    with file.with_suffix(".log").open("w", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, env=environment)  # noqa: S603


def _run(recipe: Recipe, file: Path, *options: str) -> None:
    """Run a recipe in a process of its own, to its end.

    Raises:
        CheckError: The run failed or exceeded the time limit; the message has its last lines.
    """
    process = _start(recipe, file, *options)
    try:
        status: int | None = process.wait(RUN_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = None
    if status != 0:
        ended = f"ended with status {status}" if status is not None else f"had not ended after {RUN_LIMIT_S:.0f} s"
        tail = " | ".join(file.with_suffix(".log").read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        msg = f"python -m vlora {' '.join(options)} {ended}: {tail}"
        raise CheckError(msg)


def _killed_and_resumed(folder: Path, keys: Mapping[str, Any]) -> Recipe:
    """Kill a run once it has saved its state, and resume it to its end.

    Raises:
        CheckError: Every attempt ended before it was killed, or the run cannot be resumed.
    """
    for attempt in range(N_KILLS):
        recipe = make_recipe(folder, {**keys, "output.path": str(folder / f"killed-{attempt}" / "model")})
        file = folder / f"killed-{attempt}.toml"
        process = _start(recipe, file)
        deadline = time.monotonic() + RUN_LIMIT_S
        while process.poll() is None and not output_paths(recipe).state.is_file() and time.monotonic() < deadline:
            time.sleep(0.002)
        was_running = process.poll() is None
        process.kill()
        process.wait()
        if was_running:
            _run(recipe, file, "--resume")
            return recipe
    msg = f"each of {N_KILLS} runs that were to be killed had ended before it could be"
    raise CheckError(msg)
