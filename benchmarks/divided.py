"""Measure what dividing the frozen weights among devices saves and costs: runs with train.shard "none" and "params".

    python -m benchmarks.divided --kind cpu
    python -m benchmarks.divided --kind nvidia

The same recipe runs with `python -m vlora --devices 2` both ways, one row a device and layers recomputed, on a random
model that is drawn here. A table, and as the last line one JSON object with the shares and the step's slowdown.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from .ending import end_in_order
from .machine import describe_host
from .run.processes import make_environment
from .run.rows import RowSet, write_rows
from .table import rounded, say

Way = Literal["none", "params"]
WAYS: tuple[Way, ...] = ("none", "params")

WARM_STEPS = 4
"""Steps at the beginning that are not timed."""

GOALS = {"frozen": 0.52, "peak": 0.65}
"""Shares of the memory of a run with whole weights that divided ones may take on two devices."""


@attrs.frozen(kw_only=True)
class Kind:
    """What is run on a kind of machine.

    Attributes:
        shape: A key of `SHAPES`.
        dtype: Of the weights.
        side: Of each image, in pixels.
        length: Tokens that are read of each row; longer ones are cut.
        steps: Of each run.
    """

    shape: str
    dtype: str
    side: int
    length: int
    steps: int


KINDS = {
    "cpu": Kind(shape="tiny", dtype="float32", side=64, length=65, steps=8),
    # An image of 256 tokens, and text up to 513.
    "nvidia": Kind(shape="8b", dtype="bfloat16", side=512, length=513, steps=16),
}

RECIPE = """\
[model]
path = {model}
[data]
path = {rows}
max_seq_length = {length}
[train]
batch_size = 1
iters = {steps}
grad_checkpoint = true
steps_per_report = 1
[features]
path = {features}
[output]
report = false
"""


def sum_up(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up a run's metrics.jsonl, as the first device has it.

    Returns:
        Gigabytes of its frozen weights, of the peak, of what it holds at the end, and of the peak of the first steps;
        the median step in seconds, and the losses.
    """
    reports = [line for line in lines if "loss" in line]
    times = [line["seconds"] for line in reports]
    steps = np.diff(times[WARM_STEPS - 1 :]).tolist()
    return {
        "frozen_gb": next(line["frozen_gb"] for line in lines if "frozen_gb" in line),
        "peak_gb": reports[-1]["peak_memory_gb"],
        "active_gb": reports[-1]["active_memory_gb"],
        "step_s": statistics.median(steps),
        "losses": [line["loss"] for line in reports],
    }


def compare(found: Mapping[Way, Mapping[str, Any]]) -> dict[str, Any]:
    """Compare a run with divided weights to one with whole ones: shares, and how many times as long a step takes."""
    whole, divided = found["none"], found["params"]
    frozen, peak = (divided[key] / whole[key] for key in ("frozen_gb", "peak_gb"))
    distance = max(abs(one - other) for one, other in zip(whole["losses"], divided["losses"], strict=True))
    return {
        "frozen": frozen,
        "peak": peak,
        "slowdown": divided["step_s"] / whole["step_s"],
        "loss_distance": distance,
        "holds": {"frozen": frozen <= GOALS["frozen"], "peak": peak <= GOALS["peak"]},
    }


def measure(kind: Kind, folder: Path, n_devices: int, limit_s: float) -> dict[Way, dict[str, Any]]:
    """Run the recipe both ways.

    Raises:
        subprocess.SubprocessError: A run has failed, or took too long.
    """
    environment = make_environment(None, folder)
    model = folder / "model"
    drawn = [kind.shape, kind.dtype, str(kind.side**2), str(model)]
    command = [sys.executable, "-m", "benchmarks.sides.publishing", *drawn]
    subprocess.run(command, env=environment, check=True, timeout=limit_s)
    rows = RowSet(name="one", rows=2 * n_devices, batch=1, sizes=((kind.side, kind.side),), words=(100, 120))
    recipe = folder / "recipe.toml"
    values = {"model": str(model), "rows": str(write_rows(rows, 0, folder / "rows")), "features": str(folder / "f")}
    settings = {name: json.dumps(value) for name, value in values.items()}
    recipe.write_text(RECIPE.format(**settings, length=kind.length, steps=kind.steps), encoding="utf-8")
    found: dict[Way, dict[str, Any]] = {}
    for way in WAYS:
        output = folder / way
        keys = (f"train.shard={way}", f"output.path={output}")
        given = [part for key in keys for part in ("--set", key)]
        command = [sys.executable, "-m", "vlora", str(recipe), "--devices", str(n_devices), *given]
        subprocess.run(command, env=environment, check=True, timeout=limit_s)
        text = (output / "metrics.jsonl").read_text(encoding="utf-8")
        found[way] = sum_up([json.loads(line) for line in text.splitlines()])
        say({"shard": way, **found[way]})
    return found


def show_table(found: Mapping[Way, Mapping[str, Any]]) -> list[str]:
    """Make a table in Markdown."""
    lines = ["| train.shard | frozen GB a device | peak GB a device | step, s |", "|---|---|---|---|"]
    for way, figures in found.items():
        cells = (f"{figures[key]:.3f}" for key in ("frozen_gb", "peak_gb", "step_s"))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    end_in_order()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.divided", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True, help="the machine's kind: what is trained")
    parser.add_argument("--devices", type=int, default=2, metavar="N", help="devices (2)")
    parser.add_argument("--limit", type=float, default=280.0, metavar="S", help="longest time of a process")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the last line there too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            found = measure(KINDS[options.kind], Path(temporary), options.devices, options.limit)
        except subprocess.SubprocessError as error:
            print(error, file=sys.stderr)
            return 1
    print("", *show_table(found), "", sep="\n")
    last = rounded({"host": describe_host(), "devices": options.devices, "runs": found, **compare(found)})
    if options.write is not None:
        options.write.write_text(json.dumps(last) + "\n", encoding="utf-8")
    say(last)
    return 0


if __name__ == "__main__":
    sys.exit(main())
