"""Runs on several devices beside those on one: their speed, and whether they learn the same."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import MeasureError

ONE = "vlora"
LOSS_STEPS = 5
"""Steps whose losses are compared: rounding in bfloat16 moves later ones apart."""


def name_program(n_devices: int) -> str:
    """Name vlora on a number of devices, as the tables have it."""
    return ONE if n_devices == 1 else f"{ONE}-{n_devices}"


def count_devices(name: str) -> int | None:
    """Say on how many devices a program of that name runs; None if it is not vlora."""
    base, _, number = name.partition("-")
    if base != ONE or (number and not number.isdecimal()):
        return None
    return int(number or 1)


def spread_programs(programs: Iterable[str], devices: Sequence[int]) -> list[str]:
    """Put vlora on each number of devices where vlora is measured."""
    return [
        found
        for name in programs
        for found in ([name_program(number) for number in devices] if name == ONE else [name])
    ]


def make_loss_options(n_devices: int, n_microbatches: int) -> list[str]:
    """Make the options of a short run for its first losses.

    Args:
        n_devices: On how many devices.
        n_microbatches: Batches that each device adds up in a step.

    Returns:
        What the command has behind its recipe.
    """
    keys = (
        f"train.iters={LOSS_STEPS}",
        "train.steps_per_report=1",
        f"train.gradient_accumulation_steps={n_microbatches}",
        "output.report=false",
    )
    devices = ["--devices", str(n_devices)] if n_devices > 1 else []
    return [*devices, *(part for assignment in keys for part in ("--set", assignment))]


def read_losses(metrics: Path) -> list[float]:
    """Read the losses of every step.

    Raises:
        MeasureError: There are not as many as steps.
    """
    found = [
        line["loss"] for line in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()) if "loss" in line
    ]
    if len(found) != LOSS_STEPS:
        msg = f"{metrics}: found {len(found)} losses, expected {LOSS_STEPS}; the run ended before its last step"
        raise MeasureError(msg)
    return found


def find_distance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Give the most by which losses differ, as a share of the second ones."""
    return max(abs(one - other) / abs(other) for one, other in zip(ours, theirs, strict=True))


def compare_devices(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Divide the speeds on several devices by that on one.

    Args:
        figures: By name "vlora warm", "vlora-2 warm", ...: as `sum_up` gives them.

    Returns:
        Ratios of tokens per second of both epochs.
    """
    ratios = {}
    one = figures.get(f"{ONE} warm", {})
    for name, found in figures.items():
        n_devices = count_devices(name.removesuffix(" warm"))
        if n_devices is None or n_devices == 1 or not name.endswith(" warm"):
            continue
        for number in (1, 2):
            ours, theirs = (run.get(f"epoch{number}_tokens_per_s") for run in (found, one))
            if ours and theirs:
                ratios[f"epoch {number}, tokens/s of {n_devices} devices over one"] = ours / theirs
    return ratios


def show_devices(n_devices: int, shares: Mapping[str, Sequence[int]], distance: float | None) -> list[str]:
    """Say what devices did, and whether they learn the same as one.

    Args:
        n_devices: How many.
        shares: What each of them did, by what it is.
        distance: As `find_distance` gives it for the first steps; None if they were not compared.

    Returns:
        Lines.
    """
    lines = [
        f"{n_devices} devices, {what}: {' + '.join(map(str, found))} = {sum(found)}" for what, found in shares.items()
    ]
    if distance is not None:
        lines.append(
            f"{n_devices} devices, the first {LOSS_STEPS} losses: within {distance:.1e} of those of one device with "
            f"{n_devices} batches a step"
        )
    return lines
