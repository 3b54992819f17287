"""Watch a long run: host and device memory, threads and file handles of `python -m vlora` while it trains.

    python -m benchmarks.long --kind cpu
    python -m benchmarks.long --kind nvidia

The rows have 200 different image sizes and lengths. The model is random and drawn here; nothing is downloaded. A table,
and as the last line one JSON object. It reads /proc, and so runs on Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from .ending import end_in_order
from .growth import MOST_GB_OF_A_TRACE, allowed_growth, count_traces, grow, tell_traces_apart
from .machine import describe_host
from .table import at_least_one, rounded, say

N_SIZES = 200
SAMPLE_S = 0.5
MOST_TRACES = 256

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "red", "green", "even", "odd", "yes")
PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.json", "preprocessor_config.json")
TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "eos_token_id")


@attrs.frozen(kw_only=True)
class Kind:
    """What is run on a kind of machine.

    Attributes:
        shape: A key of `SHAPES`; None for the quickstart's model.
        steps: Of the run.
        batch_size: Of a microbatch.
        sides: The least and the largest side of an image, in pixels.
        most_words: Of the longest answer.
    """

    shape: str | None
    steps: int
    batch_size: int
    sides: tuple[int, int]
    most_words: int


KINDS = {
    "cpu": Kind(shape=None, steps=2000, batch_size=4, sides=(24, 160), most_words=60),
    "nvidia": Kind(shape="2b", steps=500, batch_size=8, sides=(96, 768), most_words=300),
}


@attrs.frozen
class Sample:
    """The process at one moment.

    Attributes:
        time: Unix time, in seconds.
        host_gb: Memory that it has in use.
        threads: Its threads, MLX's and the libraries' own included.
        handles: Its open files, sockets and pipes.
    """

    time: float
    host_gb: float
    threads: int
    handles: int


def write_rows(kind: Kind, folder: Path, seed: int) -> Path:
    """Write a row for each of 200 image sizes, with answers of as many lengths as there are rows."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    sizes: set[tuple[int, int]] = set()
    while len(sizes) < N_SIZES:
        width, height = generator.integers(*kind.sides, 2, endpoint=True).tolist()
        sizes.add((width, height))
    lines = []
    for number, (width, height) in enumerate(sorted(sizes)):
        pixels = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{number}.jpg")
        words = generator.choice(WORDS, 1 + number * kind.most_words // N_SIZES)
        lines.append(json.dumps({"image": f"{number}.jpg", "question": "What is it?", "answer": " ".join(words)}))
    file = folder / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def draw_model(kind: Kind, folder: Path) -> Path:
    """Draw the model: the quickstart's, or a larger one with the quickstart's tokenizer and processor."""
    import mlx.core as mx

    from vlora.models import build_tiny_qwen3_vl

    from .folders import draw_folder
    from .shapes import MERGE, PATCH, SHAPES

    tiny = build_tiny_qwen3_vl(folder / "tiny")
    if kind.shape is None:
        return tiny
    model = draw_folder(SHAPES[kind.shape], folder / kind.shape, dtype=mx.bfloat16)
    own, config = (json.loads((path / "config.json").read_text()) for path in (tiny, model))
    (model / "config.json").write_text(json.dumps({**config, **{name: own[name] for name in TOKEN_IDS}}))
    for name in PROCESSOR_FILES:
        content = json.loads((tiny / name).read_text())
        if name.startswith("preprocessor"):
            largest = kind.sides[1] ** 2
            content |= {"patch_size": PATCH, "merge_size": MERGE}
            content["size"] = {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": largest}
        (model / name).write_text(json.dumps(content))
    return model


def write_recipe(kind: Kind, model: Path, rows: Path, folder: Path, steps: int) -> Path:
    """Write the recipe: defaults, but for what a long run needs."""
    file = folder / "recipe.toml"
    file.write_text(
        f"""
[model]
path = {json.dumps(str(model))}
[data]
path = {json.dumps(str(rows))}
train_on_completions = true
[features]
path = {json.dumps(str(folder / "features"))}
[train]
batch_size = {kind.batch_size}
iters = {steps}
steps_per_report = {max(1, steps // 100)}
steps_per_save = {max(1, steps // 4)}
[output]
path = {json.dumps(str(folder / "out"))}
""",
        encoding="utf-8",
    )
    return file


def look(process: int) -> Sample | None:
    """Look at a process; None if it has ended."""
    folder = Path("/proc") / str(process)
    try:
        pages = int((folder / "statm").read_text().split()[1])
        n_threads, n_handles = (sum(1 for _ in (folder / name).iterdir()) for name in ("task", "fd"))
    except (OSError, IndexError):
        return None
    return Sample(time.time(), pages * os.sysconf("SC_PAGE_SIZE") / 1e9, n_threads, n_handles)


def watch(recipe: Path, log: Path) -> tuple[int, list[Sample]]:
    """Start the command that users type and look at it until it ends; its status, and what was seen."""
    samples = []
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(
            [sys.executable, "-m", "vlora", str(recipe)], stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            while process.poll() is None:
                if (sample := look(process.pid)) is not None and sample.host_gb:
                    samples.append(sample)
                time.sleep(SAMPLE_S)
        finally:
            # Ctrl-C here, or whatever else: nobody would look at it any more.
            process.kill()
    return process.returncode, samples


def write_samples(samples: Sequence[Sample], file: Path) -> None:
    """Keep what was seen: a line of names, then a line for each moment."""
    lines = [[field.name for field in attrs.fields(Sample)], *(map(str, attrs.astuple(sample)) for sample in samples)]
    file.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl that report steps."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def sum_up(kind: Kind, steps: int, samples: list[Sample], reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Judge a run by what was seen after its first tenth, and after every row has been seen once."""
    settled = max(steps // 10, -(-N_SIZES // kind.batch_size))
    at = [line["step"] for line in reports]
    times = [line["unix_time"] for line in reports]
    seen = [(float(np.interp(sample.time, times, at)), sample) for sample in samples if sample.time <= times[-1]]
    seen = [(step, sample) for step, sample in seen if step >= settled]
    told = [line for line in reports if line["step"] > settled]
    if not seen or not told:
        msg = f"nothing was seen after the first {settled} steps; give --steps more"
        raise SystemExit(msg)
    found = {
        name: grow(name, [step for step, _ in seen], [getattr(sample, name) for _, sample in seen])
        for name in ("host_gb", "threads", "handles")
    }
    traces = count_traces([sample.time for _, sample in seen], reports)
    growth = tell_traces_apart(traces, [step for step, _ in seen], [sample.host_gb for _, sample in seen])
    host = found["host_gb"]
    host |= attrs.asdict(growth) | {"flat": growth.is_flat(allowed_growth("host_gb", host["first"]))}
    found["active_gb"] = grow("active_gb", [line["step"] for line in told], [line["active_memory_gb"] for line in told])
    return {
        "steps": steps,
        "settled_after": settled,
        "samples": len(seen),
        **found,
        "cache_gb": max(line["cache_memory_gb"] for line in told),
        "peak_gb": reports[-1]["peak_memory_gb"],
        "peak_gb_when_settled": next(line["peak_memory_gb"] for line in reports if line["step"] >= settled),
        "traces": reports[-1]["n_traces"],
        "few_traces": reports[-1]["n_traces"] <= MOST_TRACES,
        "seconds": reports[-1]["seconds"],
    }


def show(found: dict[str, Any]) -> list[str]:
    """Lay the table out."""
    lines = [f"| after step {found['settled_after']} | first | last | most | per 1,000 steps | flat |"]
    lines.append("|---|---|---|---|---|---|")
    names = {"host_gb": "host GB", "active_gb": "device GB in use", "threads": "threads", "handles": "file handles"}
    for name, label in names.items():
        of = found[name]
        numbers = " | ".join(f"{of[key]:.4g}" for key in ("first", "last", "most", "per_1000_steps"))
        lines.append(f"| {label} | {numbers} | {'yes' if of['flat'] else 'NO'} |")
    host = found["host_gb"]
    between, with_traces, of_one = (
        1000 * size for size in (host["between_traces"], host["with_traces"], MOST_GB_OF_A_TRACE)
    )
    lines.append(
        f"\nhost memory grew by {between:.0f} MB while no shape was traced, and by {with_traces:.0f} MB with "
        f"new shapes: {host['n_new']}, of at most {of_one:.0f} MB each"
    )
    lines.append(
        f"peak {found['peak_gb']:.3g} GB ({found['peak_gb_when_settled']:.3g} by then), cache at most "
        f"{found['cache_gb']:.3g} GB, {found['traces']} traces of the step (at most {MOST_TRACES} allowed), "
        f"{found['seconds']:.0f} s"
    )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch a run.

    Returns:
        0, or 1 if it failed, or something of it grew.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True, help="the machine's kind, which decides the model")
    parser.add_argument("--steps", type=at_least_one, metavar="N", help="2000 on a CPU, 500 on a GPU")
    parser.add_argument("--seed", type=int, default=0, help="of the rows (0)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep model, rows, log, metrics and samples there")
    options = parser.parse_args(arguments)
    kind = KINDS[options.kind]
    steps = options.steps or kind.steps
    with tempfile.TemporaryDirectory(prefix="vlora-long-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model = draw_model(kind, folder)
        rows = write_rows(kind, folder, options.seed)
        status, samples = watch(write_recipe(kind, model, rows, folder, steps), folder / "log.txt")
        if status:
            print((folder / "log.txt").read_text(encoding="utf-8")[-4000:], flush=True)
            say({"kind": options.kind, "failed": status})
            return 1
        write_samples(samples, folder / "samples.tsv")
        device = json.loads((folder / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
        found = sum_up(kind, steps, samples, read_reports(folder / "out"))
    print(*show(found), "", sep="\n", flush=True)
    machine = describe_host() | {"device": device.get("device_name"), "kind": device.get("device")}
    say(rounded({"kind": options.kind, "machine": machine, **found}))
    return int(not (found["few_traces"] and all(of["flat"] for of in found.values() if isinstance(of, dict))))


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
