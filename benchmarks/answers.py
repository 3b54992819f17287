"""How long answers take: held-out rows of the quickstart in batches, and one by one through mlx-vlm's generation.

    python -m benchmarks.answers                                   # 300 rows, the untrained model
    python -m benchmarks.answers --model runs/quickstart/model     # the trained one, whose answers end sooner
    python -m benchmarks.answers --rows 50 --turns 5

Both take turns on the same rows; the last line is a JSON object with the seconds of all turns: by the clock, and of the
processor, which other programs on the machine disturb less.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import vlora

# isort: split

import attrs
import mlx_vlm

from vlora.data.prefetch import WorkerPool, count_workers
from vlora.data.rows import RowDataset
from vlora.models import Encoder, MlxVlmBackbone, generating

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
LONGEST = 8
"""Tokens of an answer; the recipe's."""
WARM = 32
"""Rows that are answered before the clock starts: kernels and caches of the first rows belong to no way."""

Way = Callable[[MlxVlmBackbone, Encoder, RowDataset], list[str]]


def in_batches(backbone: MlxVlmBackbone, encoder: Encoder, rows: RowDataset) -> list[str]:
    """Answer as a run does."""
    options = vlora.AnswerOptions(max_new_tokens=LONGEST, batch_size=32)
    with WorkerPool(count_workers(None)) as workers:
        return [found.answer for found in vlora.predict(backbone, encoder, rows, options, workers=workers)]


def one_by_one(backbone: MlxVlmBackbone, encoder: Encoder, rows: RowDataset) -> list[str]:
    """Answer each row through mlx-vlm's generation."""
    found = []
    with generating(backbone) as module:
        for index in range(len(rows)):
            sample = rows[index]
            images = encoder.open_images(sample)
            prompt, _ = encoder.ask(attrs.evolve(sample, turns=sample.turns[:-1]), sample.turns[-1])
            result = mlx_vlm.generate(
                module, encoder.processor, prompt, image=images, max_tokens=LONGEST, temperature=0.0
            )
            found.append(result.text.strip())
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both, and print a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a trained model of the quickstart; the untrained one without it")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--turns", type=int, default=3)
    parsed = parser.parse_args(arguments)
    keys = {"output.path": "unwritten", **({"model.path": parsed.model} if parsed.model else {})}
    recipe = vlora.parse_recipe(RECIPE.read_text(encoding="utf-8"), keys)
    data = vlora.load_data(recipe)
    rows = data.train if data.valid is None else data.valid
    rows = attrs.evolve(rows, indices=list(rows.indices)[: parsed.rows])
    backbone, _ = vlora.load_model(recipe, data.files)
    ways: dict[str, Way] = {"in batches": in_batches, "one by one": one_by_one}
    answers: dict[str, list[str]] = {}
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(backbone, data.encoder, attrs.evolve(rows, indices=rows.indices[:WARM]))
    for _ in range(parsed.turns):
        for name, way in ways.items():
            began, worked = time.perf_counter(), time.process_time()
            answers[name] = way(backbone, data.encoder, rows)
            clock[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - worked)
    show(answers, clock, processor)
    return 0


def show(answers: dict[str, list[str]], clock: dict[str, list[float]], processor: dict[str, list[float]]) -> None:
    """Print what was measured of each way."""
    n_rows = len(next(iter(answers.values())))
    n_same = sum(one == other for one, other in zip(*answers.values(), strict=True))
    print(f"{n_rows} rows, {n_same} answered alike; medians and least")
    for name in answers:
        by_clock, by_processor = clock[name], processor[name]
        print(
            f"{name:<12}{median(by_clock):>8.2f} s (least {min(by_clock):.2f})   of the processor "
            f"{median(by_processor):>6.2f} s (least {min(by_processor):.2f})"
        )
    times = {
        kind: min(found["one by one"]) / min(found["in batches"])
        for kind, found in (("clock", clock), ("processor", processor))
    }
    print(f"{times['clock']:.1f} times as fast by the clock, {times['processor']:.1f} times by the processor")
    print(json.dumps({"rows": n_rows, "same": n_same, "clock": clock, "processor": processor, "times": times}))


if __name__ == "__main__":
    raise SystemExit(main())
