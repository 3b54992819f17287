"""Stream many rows: time to the first step, host memory while they are read, and runs that are stopped and go on.

    python -m benchmarks.streaming
    python -m benchmarks.streaming --rows 10000 --steps 100 --stops 2   # a minute

The rows lie in WebDataset tar files, each a small picture and a question with its answer; 1,000,000 take 2.6 GB. The
model is the quickstart's; nothing is downloaded. A line for each figure, and as the last line one JSON object. It reads
/proc, and so runs on Linux.
"""

import argparse
import io
import json
import os
import random
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from .ending import end_in_order
from .growth import grow
from .long import Sample, read_reports, watch
from .machine import describe_host
from .table import at_least_one, say

ROWS_PER_SHARD = 10_000
PLAIN_ROWS = 64
SIDE = 32
STEPS_OF_A_STOPPED_RUN = 40
BATCH_SIZE = 4
CLOSE_S = 5.0
"""Seconds by which the first step may come later than that of rows that are few."""


def draw_picture() -> bytes:
    """Draw the picture of all rows, a JPEG."""
    from PIL import Image, ImageDraw

    image, file = Image.new("RGB", (SIDE, SIDE)), io.BytesIO()
    ImageDraw.Draw(image).text((8, 4), "7", fill="white", font_size=24)
    image.save(file, "JPEG")
    return file.getvalue()


def describe_row(number: int) -> dict[str, str]:
    """Make the text of a row: a question of its own, so that rows can be told apart."""
    return {"question": f"Which digit is this, in row {number}?", "answer": str(number % 10)}


def write_shards(folder: Path, n_rows: int) -> str:
    """Write the rows into tar files, but for those that an earlier call has written; give a path that names all."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw_picture()
    for shard in range(-(-n_rows // ROWS_PER_SHARD)):
        first = shard * ROWS_PER_SHARD
        path = folder / f"rows-{shard:04d}.tar"
        if path.exists():
            continue
        with path.open("wb") as file:
            for number in range(first, min(first + ROWS_PER_SHARD, n_rows)):
                for ending, data in (("jpg", picture), ("json", json.dumps(describe_row(number)).encode())):
                    file.writelines(_member(f"{number:08d}.{ending}", data))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
    return str(folder / "rows-*.tar")


def _member(name: str, data: bytes) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield data + bytes(-len(data) % tarfile.BLOCKSIZE)


def write_plain(folder: Path) -> str:
    """Write a few of the rows as they are read by number."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "7.jpg").write_bytes(draw_picture())
    lines = [json.dumps({"image": "7.jpg", **describe_row(number)}) for number in range(PLAIN_ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "rows.jsonl")


def make_keys(rows: str, output: Path, steps: int, *, is_streamed: bool) -> dict[str, Any]:
    """Make the keys of a run's recipe."""
    return {
        "model.path": "builtin:tiny-qwen3-vl",
        "data.path": rows,
        "data.train_on_completions": True,
        "data.streaming": is_streamed,
        "lora.dropout": 0.1,
        "optim.learning_rate": 1e-3,
        "features.cache": False,
        "train.batch_size": BATCH_SIZE,
        "train.iters": steps,
        "train.steps_per_report": max(1, steps // 100),
        "train.steps_per_save": max(1, steps // 4),
        "output.path": str(output),
        "output.report": False,
    }


def start(keys: dict[str, Any], folder: Path) -> tuple[float, float, list[Sample]]:
    """Carry out a recipe as users do.

    Returns:
        Seconds to its first step, seconds of the processor that all of it took, and what was seen of the process.
    """
    from vlora.recipe.parse import dump_recipe, parse_recipe

    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.toml"
    recipe.write_text(dump_recipe(parse_recipe("", keys)), encoding="utf-8")
    began, used = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    status, samples = watch(recipe, folder / "log.txt")
    if status:
        sys.exit(f"the run has failed: {(folder / 'log.txt').read_text()[-2000:]}")
    lines = (Path(keys["output.path"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    moments = [line["first_step_unix_time"] for line in map(json.loads, lines) if "first_step_unix_time" in line]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return moments[0] - began, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, samples


def time_starts(shards: str, plain: str, folder: Path, repeat: int) -> dict[str, Any]:
    """Time the first step of streamed rows and of a few plain ones, by turns; the first of each does not count."""
    found: dict[str, list[float]] = {name: [] for name in ("plain", "streamed", "plain_cpu", "streamed_cpu")}
    for turn in range(repeat + 1):
        for name, rows in (("plain", plain), ("streamed", shards)):
            place = folder / f"{name}-{turn}"
            seconds, cpu_seconds, _ = start(make_keys(rows, place / "out", 2, is_streamed=name == "streamed"), place)
            if turn:
                found[name].append(round(seconds, 2))
                found[f"{name}_cpu"].append(round(cpu_seconds, 2))
    later = median(found["streamed"]) - median(found["plain"])
    # What else the machine does is not in it.
    more = median(found["streamed_cpu"]) - median(found["plain_cpu"])
    return {**found, "later_s": round(later, 2), "more_cpu_s": round(more, 2), "holds": later <= CLOSE_S}


def watch_memory(shards: str, folder: Path, steps: int) -> dict[str, Any]:
    """Look at the memory of a run; the first tenth of its steps does not count."""
    import numpy as np

    keys = make_keys(shards, folder / "out", steps, is_streamed=True)
    _, _, samples = start(keys, folder)
    reports = read_reports(folder / "out")
    times, at = [line["unix_time"] for line in reports], [line["step"] for line in reports]
    seen = [(float(np.interp(each.time, times, at)), each.host_gb) for each in samples if each.time <= times[-1]]
    settled = [(step, value) for step, value in seen if step >= steps / 10]
    found = grow("host_gb", [step for step, _ in settled], [value for _, value in settled])
    return {"steps": steps, "samples": len(settled), **found}


def take_run(keys: dict[str, Any], stops: Callable[[int], bool], *, resume: bool) -> list[tuple[int, float]]:
    """Carry out a recipe until it is to stop; give its steps and their losses."""
    from vlora import fit, parse_recipe
    from vlora.events import StepReport

    done = 0

    def should_stop() -> bool:
        nonlocal done
        done += 1
        return stops(done)

    events = fit(parse_recipe("", keys), resume=resume, should_stop=should_stop)
    return [(event.step, event.loss) for event in events if isinstance(event, StepReport)]


def stop_and_go_on(shards: str, folder: Path, n_stops: int, seed: int) -> dict[str, Any]:
    """Stop runs behind random steps, and compare what they come to with a run that was not stopped."""
    steps = STEPS_OF_A_STOPPED_RUN

    def keys(name: str) -> dict[str, Any]:
        return make_keys(shards, folder / name, steps, is_streamed=True)

    expected = take_run(keys("straight"), lambda _: False, resume=False)
    weights = (folder / "straight" / "adapters.safetensors").read_bytes()
    draw, at, equal = random.Random(seed), [], 0  # noqa: S311 - no secret
    for number in range(n_stops):
        stop, name = draw.randrange(1, steps), f"stopped-{number}"
        first = take_run(keys(name), lambda done, stop=stop: done >= stop, resume=False)  # type: ignore[misc]
        second = take_run(keys(name), lambda _: False, resume=True)
        at.append(first[-1][0])
        is_equal = [*first, *second] == expected
        equal += is_equal and (folder / name / "adapters.safetensors").read_bytes() == weights
        say({"stopped": at[-1], "of": steps, "equal": is_equal})
    return {"stops": at, "equal": equal, "holds": equal == n_stops}


def main() -> int:
    """Write the rows, and measure; 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=at_least_one, default=1_000_000, help="rows in the tar files")
    parser.add_argument("--steps", type=at_least_one, default=2000, help="steps while memory is watched")
    parser.add_argument("--stops", type=at_least_one, default=20, help="runs that are stopped")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="starts that are timed, of each kind")
    parser.add_argument("--seed", type=int, default=0, help="fixes where runs are stopped")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="keep rows and runs")
    parsed = parser.parse_args()
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="vlora-streaming-") as temporary:
        folder = (parsed.keep or Path(temporary)).resolve()
        began = time.perf_counter()
        shards = write_shards(folder / f"shards-{parsed.rows}", parsed.rows)
        plain = write_plain(folder / "plain")
        say({"rows": parsed.rows, "written_s": round(time.perf_counter() - began)})
        found: dict[str, Any] = {"rows": parsed.rows, "load": os.getloadavg()[0], **describe_host()}
        found["start"] = time_starts(shards, plain, folder / "starts", parsed.repeat)
        say({"start": found["start"]})
        found["memory"] = watch_memory(shards, folder / "memory", parsed.steps)
        say({"memory": found["memory"]})
        found["resumed"] = stop_and_go_on(shards, folder / "stops", parsed.stops, parsed.seed)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if found["start"]["holds"] and found["memory"]["flat"] and found["resumed"]["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
