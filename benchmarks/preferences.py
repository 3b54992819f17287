"""Time steps over pairs against steps of fine-tuning on the same tokens, and a kept reference against a live one.

    python -m benchmarks.preferences --kind cpu
    python -m benchmarks.preferences --kind nvidia --write preferences.json

The pairs are those of `benchmarks.run --sets pairs`. Batches are on the device, and features of images are kept, as
from the second epoch on. The ways to step take turns, so that a noisy machine disturbs all of them alike; on a CPU
seconds are those that this process computed, whatever else the machine did:

    sft             both answers of each pair are learned as rows of fine-tuning are
    live            DPO, the reference computed within the step
    kept            DPO, the reference's log-probabilities brought by the rows (`preference.precompute`)
    live/kept recomputed    the same with `train.grad_checkpoint`

A line for each as JSON, a table, and as the last line one JSON object with ratios of the medians.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

import vlora  # before mlx: it binds a fast BLAS
from vlora import Batch, Recipe, TrainState, collate, init_state, load_data, load_model, make_optimizer, parse_recipe
from vlora.build import make_recipe_step
from vlora.memory.limits import describe_device, memory_limits
from vlora.models.encode.answers import encode_answers
from vlora.run.feature_cache import attach_feature_cache
from vlora.train.objectives.preference import split_reference
from vlora.train.reference import make_reference, make_reference_step

# isort: split
import mlx.core as mx
import numpy as np

from .cases import LEARNING_RATE, RANK
from .ending import end_in_order
from .machine import describe_host
from .run.rows import KINDS, Kind, write_recipe, write_rows
from .sides.publishing import publish
from .table import rounded, say

Step = Callable[[], float]
"""Takes a step, waits for it, and gives its loss."""

WAYS: Mapping[str, Mapping[str, Any]] = {
    "sft": {"train.objective": "sft"},
    "live": {},
    "kept": {"preference.precompute": True},
    "live recomputed": {"train.grad_checkpoint": True},
    "kept recomputed": {"preference.precompute": True, "train.grad_checkpoint": True},
}
"""By name: keys of the recipe."""

GOALS = {"live / sft": 1.6, "kept / live": 0.75, "kept recomputed / live recomputed": 0.82}
"""What ratios of seconds a step are to stay below."""


def main() -> int:
    """Measure; 1 if losses of a kept and a live reference are not the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preferences", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True, help="the machine's kind: what is trained")
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="of a step (those of the kind)")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="of each way (8)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the last line there too")
    options = parser.parse_args()
    kind = KINDS[options.kind]
    with tempfile.TemporaryDirectory(prefix="vlora-preferences-") as folder:
        found = measure(kind, options.pairs or kind.sets["pairs"].batch, options.steps, Path(folder))
    for line in show_table(found):
        print(line)
    say(rounded({"machine": describe_host(), **found}))
    if options.write:
        options.write.write_text(json.dumps(rounded(found)) + "\n", encoding="utf-8")
    return int(not found["same_losses"])


def measure(kind: Kind, n_pairs: int, n_steps: int, folder: Path) -> dict[str, Any]:
    """Time the ways to step.

    Args:
        kind: The machine's kind.
        n_pairs: Of a step.
        n_steps: Of each way.
        folder: For model and rows.

    Returns:
        The device, tokens of a step, of each way seconds a step (median, least, most), its peak of memory beyond the
        weights, its losses; and the ratios of `GOALS`.
    """
    model = publish(kind.shape, kind.dtype, kind.least_pixels, folder / "model")
    rows = write_rows(attrs.evolve(kind.sets["pairs"], rows=n_pairs), 0, folder / "rows")
    recipes = {name: make_recipe(folder, model, rows, n_pairs, keys) for name, keys in WAYS.items()}
    with memory_limits(recipes["live"].memory):
        batch, makers = open_steps(recipes)
        figures = time_in_turns(makers, n_steps)
    medians = {name: own["seconds"] for name, own in figures.items()}
    ratios = {name: medians[name.split(" / ")[0]] / medians[name.split(" / ")[1]] for name in GOALS}
    live, kept = (figures[name]["losses"] for name in ("live", "kept"))
    return {
        "device": describe_device().name,
        "pairs": n_pairs,
        "tokens": sum(len(row.tokens) for row in batch.rows),
        "ways": figures,
        "ratios": ratios,
        "goals": GOALS,
        "loss_difference": max(abs(one - other) for one, other in zip(live, kept, strict=True)),
        "same_losses": np.allclose(live, kept, rtol=0, atol=1e-6 if kind.dtype == "float32" else 2e-2),
    }


def make_recipe(folder: Path, model: Path, rows: Path, n_pairs: int, keys: Mapping[str, Any]) -> Recipe:
    """Make the recipe of a way."""
    path = write_recipe(
        folder / "run.toml",
        model=str(model),
        rows=str(rows),
        max_seq_length=2048,
        rank=RANK,
        alpha=2.0 * RANK,
        learning_rate=LEARNING_RATE,
        batch=n_pairs,
        epochs=1,
        objective="dpo",
    )
    fixed = {"features.disk_gb": 0, "output.path": str(folder / "out")}
    return parse_recipe(path.read_text(encoding="utf-8"), {**fixed, **keys})


def open_steps(recipes: Mapping[str, Recipe]) -> tuple[Batch, dict[str, Step]]:
    """Open the model once, and make a step of each way over one batch of all pairs, each with a state of its own."""
    first = recipes["live"]
    data = load_data(first)
    backbone, _ = load_model(first, data.files)
    encoder = attach_feature_cache(first, data, backbone).encoder
    answers = [
        attrs.evolve(answer, group=number)
        for number in range(len(data.train))
        for answer in encode_answers(encoder, data.train[number])
    ]
    optimizer = make_optimizer(first.optim)
    start = init_state(backbone, optimizer)
    mx.eval(start)
    sums = np.asarray(make_reference_step(backbone)(start, collate(answers))).astype(np.float64).sum(axis=0).tolist()
    kept = [
        attrs.evolve(answer, columns={**answer.columns, **split_reference(value)})
        for answer, value in zip(answers, sums, strict=False)
    ]
    batches = {"sft": collate(answers), "live": collate(answers), "kept": collate(kept)}
    references = {name: make_reference(recipe, backbone, start.params) for name, recipe in recipes.items()}
    vlora.unbind(backbone)

    def make(name: str, recipe: Recipe) -> Step:
        own = make_optimizer(recipe.optim)
        step = make_recipe_step(recipe, backbone, own, start, reference=references[name])
        held: list[TrainState] = [init_like(start)]
        batch = batches[name.split(maxsplit=1)[0]]

        def take() -> float:
            held[0], output = step(held[0], batch, LEARNING_RATE)
            mx.eval(held[0], output)
            return float(output.nll_sum / output.n_terms)

        return take

    return batches["live"], {name: make(name, recipe) for name, recipe in recipes.items()}


def init_like(start: TrainState) -> TrainState:
    """Copy the parameters of a state that has done no step; the optimizer's numbers are those of the start."""
    return start._replace(params={name: mx.array(value) for name, value in start.params.items()})


def time_in_turns(steps: Mapping[str, Step], n_steps: int) -> dict[str, dict[str, Any]]:
    """Take steps of each way in turns; the first two of each, which trace and compile, are not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, float] = {}
    clock = time.process_time if describe_device().kind == "cpu" else time.perf_counter
    for number in range(n_steps + 2):
        for name, take in steps.items():
            mx.reset_peak_memory()
            before = mx.get_active_memory()
            began = clock()
            losses[name].append(take())
            if number > 1:
                seconds[name].append(clock() - began)
                peaks[name] = max(peaks.get(name, 0.0), (mx.get_peak_memory() - before) / 1e9)
    found = {
        name: {
            "seconds": statistics.median(own),
            "least": min(own),
            "most": max(own),
            "peak_gb": peaks[name],
            "losses": losses[name],
        }
        for name, own in seconds.items()
    }
    for name, own in found.items():
        say({"way": name, **own})
    return found


def show_table(found: Mapping[str, Any]) -> Sequence[str]:
    """Lay the figures out as a Markdown table, with the ratios behind it."""
    lines = [
        f"{found['pairs']} pairs, {found['tokens']:,} tokens a step",
        "",
        "| way | s a step (least to most) | GB beyond what is held |",
        "|---|---|---|",
    ]
    for name, own in found["ways"].items():
        spread = f"{own['least']:.3g} to {own['most']:.3g}"
        lines.append(f"| {name} | {own['seconds']:.3g} ({spread}) | {own['peak_gb']:.3g} |")
    ratios = [f"{name}: {value:.2f} (goal {GOALS[name]})" for name, value in found["ratios"].items()]
    return [*lines, "", *ratios, f"losses of kept and live apart by {found['loss_difference']:.2g}"]


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
