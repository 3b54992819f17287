"""Compares what vlora computes with the golden files of transformers and PEFT.

python -m tests.golden.compare                 # prints the table of differences; families may be named
python -m tests.golden.compare --write         # writes vlora/models/parity.md, of all families
"""

import vlora
from tests.arrays import load_arrays

# isort: split

import argparse
import functools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.releases import check_versions
from vlora.models.proven_versions import PROVEN

from .cases import CASES, PIXELS, RUNS, STEPS, Array, digest, fingerprint, input_arrays
from .mlx_side import Result, encode_rows, frozen_weights, train, write_folder

GOLDEN = Path(__file__).parent
TABLE = Path(vlora.__file__).parent / "models" / "parity.md"

LOSS = 1e-4
NORM = 1e-3
CHANGE = 1e-3
STILL = 1e-3
"""A parameter that all but stands still is measured against this share of the mean movement: the bias of a tower's
keys has no true gradient, only rounding errors."""


@dataclass(frozen=True)
class Difference:
    """The largest differences of a run from its golden file.

    Attributes:
        loss: Of a step's mean loss, in nats.
        norm: Of a step's gradient norm, relative.
        change: Of a trained array, relative to how far it moved.
        worst: The array that this is.
    """

    loss: float
    norm: float
    change: float
    worst: str

    @property
    def is_small(self) -> bool:
        """Whether the numbers count as the same."""
        return self.loss <= LOSS and self.norm <= NORM and self.change <= CHANGE


@dataclass(frozen=True)
class Ready:
    """A family's checkpoint and rows, found to be those of the golden files."""

    folder: Path
    examples: tuple[Any, ...]


def golden(family: str) -> dict[str, Any]:
    """Read a family's record."""
    record: dict[str, Any] = json.loads((GOLDEN / f"{family}.json").read_text())
    return record


def golden_arrays(family: str, run: str) -> dict[str, Array]:
    """Read what is stored of the arrays that a run trained."""
    arrays = load_arrays(GOLDEN / f"{family}.safetensors")
    return {name.removeprefix(f"{run}."): np.array(v) for name, v in arrays.items() if name.startswith(f"{run}.")}


@functools.cache
def scratch() -> "tempfile.TemporaryDirectory[str]":
    """Make the folder that this process writes checkpoints to; it goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="vlora-golden-")


@functools.cache
def make_ready(family: str) -> Ready:
    """Rebuild a family's checkpoint and rows, and check that they are what the reference was trained on.

    Raises:
        AssertionError: They are not, so that no number can be compared.
    """
    record = golden(family)
    folder = write_folder(family, Path(scratch().name) / family)
    weights = frozen_weights(folder, is_quantized=False)
    hint = "the golden files have to be made again (see tests/golden/generate.py)"
    found = digest(*(weights[name] for name in sorted(weights)))
    assert found == record["checkpoint"], f"{family}: tests/checkpoints writes other weights than before; {hint}"
    rows = encode_rows(family, folder)
    for name, example in zip(CASES[family].rows, rows.examples, strict=True):
        stored = record["rows"][name]
        tokens = digest(example.tokens, example.supervised)
        assert tokens == stored["tokens"], f"{family}: row {name!r} has other tokens than before; {hint}"
        arrays = input_arrays(example.inputs)
        for key, (*shape, size) in stored["inputs"].items():
            value = np.asarray(arrays[key])
            same = list(value.shape) == shape and np.isclose(np.abs(value).mean(dtype=np.float64), size, rtol=1e-4)
            assert same, f"{family}: {key} of row {name!r} is another than before; {hint}"
    return Ready(folder, rows.examples)


def run_again(family: str, run: str, **options: Any) -> Result:
    """Repeat a stored run; the options are `mlx_side.train`'s."""
    ready = make_ready(family)
    return train(ready.folder, CASES[family], run, ready.examples, **options)


def compare(family: str, run: str) -> Difference:
    """Repeat a stored run and measure how far it is from the reference."""
    return measure(family, run, run_again(family, run))


def measure(family: str, run: str, result: Result) -> Difference:
    """Measure how far a result is from the reference.

    Raises:
        AssertionError: Other arrays were trained, or another number of steps done.
    """
    stored, arrays = golden(family)["runs"][run], golden_arrays(family, run)
    assert set(arrays) == set(result.final), f"{family} {run}: only one side trains {set(arrays) ^ set(result.final)}"
    assert len(stored["losses"]) == len(result.losses) == STEPS
    moved, errors = {}, {}
    for name, expected in arrays.items():
        if RUNS[run].whole:
            moved[name] = float(np.linalg.norm(expected - result.initial[name]))
            errors[name] = float(np.linalg.norm(expected - result.final[name]))
        else:
            moved[name], errors[name] = measure_change(name, expected, result.final[name] - result.initial[name])
    shares = compare_changes(moved, errors, {name: value.size for name, value in result.final.items()})
    worst = max(shares, key=shares.__getitem__)
    return Difference(
        loss=float(np.abs(np.array(result.losses) - stored["losses"]).max()),
        norm=float(np.abs(np.array(result.norms) / stored["grad_norms"] - 1).max()),
        change=shares[worst],
        worst=worst,
    )


def measure_change(name: str, expected: Array, change: Array) -> tuple[float, float]:
    """Say how far an array moved, and by how much its change differs from that of the reference.

    Args:
        name: The array's.
        expected: f32[1 + PROJECTIONS], the reference's change as `fingerprint` condenses it.
        change: How the array changed.
    """
    own = fingerprint(name, change)
    return float(expected[0]), float(np.sqrt(np.mean(np.square(expected[1:] - own[1:]))))


def compare_changes(
    moved: Mapping[str, float], errors: Mapping[str, float], sizes: Mapping[str, int]
) -> dict[str, float]:
    """Relate differences of arrays to how far each moved, or to `STILL` of the mean movement where it hardly did."""
    mean = np.sqrt(sum(value**2 for value in moved.values()) / sum(sizes.values()))
    return {
        name: error / max(moved[name], float(STILL * mean * np.sqrt(sizes[name]))) for name, error in errors.items()
    }


def table_lines(differences: Mapping[tuple[str, str], Difference]) -> list[str]:
    """Write differences as a Markdown table, a row per family and a column per run, and below it what to know.

    Args:
        differences: By family and run.
    """
    lines = [f"| family | {' | '.join(RUNS)} |", f"|---|{'---|' * len(RUNS)}"]
    notes = []
    for family in dict.fromkeys(family for family, _ in differences):
        cells = [describe(differences.get((family, run))) for run in RUNS]
        lines.append(f"| {family} | {' | '.join(cells)} |")
        notes += [f"- {family}: {note}." for note in notes_on(family)]
    return [*lines, "", *notes] if notes else lines


def describe(difference: Difference | None) -> str:
    """Write one run's differences: loss / gradient norm / trained arrays, bold if they are too large."""
    if difference is None:
        return "-"
    figures = " / ".join(f"{value:.0e}" for value in (difference.loss, difference.norm, difference.change))
    return figures if difference.is_small else f"**{figures}**"


def notes_on(family: str) -> list[str]:
    """Say what was done so that both sides compute the same, and what is not compared."""
    case, difference = CASES[family], golden(family)["processor_difference"]
    notes = [f"its conversations are written by vlora's template: {case.own_template}"] if case.own_template else []
    if difference > PIXELS:
        notes.append(f"the processors' pixel values differ by up to {difference:.1g}; both sides are given vlora's")
    notes += case.remarks
    notes += [f"{run} is not compared: {reason}" for run, reason in case.skipped.items()]
    return notes + [f"{run} differs: {reason}" for run, reason in case.differs.items()]


def document(differences: Mapping[tuple[str, str], Difference]) -> str:
    """Write vlora/models/parity.md."""
    used = golden(next(family for family, _ in differences))["versions"]
    versions = ", ".join(f"{name} {version}" for name, version in used.items())
    n_small = sum(difference.is_small for difference in differences.values())
    limits = f"{LOSS:g}, {NORM:g} and {CHANGE:g}"
    lines = [
        "# Parity with transformers + PEFT",
        "",
        "Written by `python -m tests.golden.compare --write`, from the golden files of `tests/golden/generate.py`.",
        "",
        f"Both sides train the same tiny checkpoint, laid out like a published one, for {STEPS} steps in float32, on",
        "conversations with images that each side's own tokenizer and processor encode alike. The reference is",
        f"{versions}; vlora ran on mlx {PROVEN['mlx']} (CPU) and mlx-vlm {PROVEN['mlx-vlm']}.",
        "",
        "A cell holds the largest difference of a step's loss (nats per target), of a step's gradient norm (relative),",
        f"and of a trained array (relative to how far it moved). They count as the same up to {limits}:",
        f"{n_small} of {len(differences)} runs are the same.",
        "",
        *(f"- **{name}**: {run.meaning}." for name, run in RUNS.items()),
        "",
        *table_lines(differences),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare families and print or write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.compare", description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="families; all of them if none is named")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} into the package; all families")
    options = parser.parse_args()
    if options.write:
        check_versions(parser)
    families = CASES if options.write else options.families or CASES
    differences = {(family, run): compare(family, run) for family in families for run in golden(family)["runs"]}
    if options.write:
        TABLE.write_text(document(differences))
    else:
        print("\n".join(table_lines(differences)))


if __name__ == "__main__":
    main()
