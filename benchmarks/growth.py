"""What grows in a long run, and what only comes with a new shape. Pure."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

GROWTH = 0.05
"""Of what was in use after the first tenth: what may be added to it until the end."""

MOST_GB_OF_A_TRACE = 0.03
"""Of host memory that stays in use for a shape once it has been traced: MLX keeps the compiled graph."""

LEAST_GROWTH = {"host_gb": 0.03, "active_gb": 0.005, "threads": 0, "handles": 2}
"""What is never called growth: a page cache's whims, a batch that is larger than the others."""


@attrs.frozen
class Growth:
    """What memory grew by.

    Attributes:
        between_traces: From the first step to the last one, if no shape had been traced.
        with_traces: What has stayed in use for the shapes that were traced.
        n_new: Those.
    """

    between_traces: float
    with_traces: float
    n_new: int

    def is_flat(self, allowed: float) -> bool:
        """Whether neither is more than what is allowed, or than what a graph may take for each new shape."""
        return self.between_traces <= allowed and self.with_traces <= max(allowed, MOST_GB_OF_A_TRACE * self.n_new)


def grow(name: str, steps: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """Say how much a number grew: medians of the first and the last fifth, a line through all, and the most.

    Args:
        name: Of the number.
        steps: At which it was seen, those of the first tenth left out.
        values: The number there.
    """
    found = np.array(values, dtype=np.float64)
    part = max(1, len(found) // 5)
    first, last = float(np.median(found[:part])), float(np.median(found[-part:]))
    slope = round(float(np.polyfit(steps, found, 1)[0]) * 1000, 6) if len(found) > 1 else 0.0
    return {
        "first": first,
        "last": last,
        "most": float(found.max()),
        "per_1000_steps": slope,
        "flat": last - first <= allowed_growth(name, first),
    }


def allowed_growth(name: str, first: float) -> float:
    """Say what may be added to a number until the end, by what it was at first."""
    return max(GROWTH * first, LEAST_GROWTH[name])


def count_traces(moments: Sequence[float], reports: Sequence[dict[str, Any]]) -> list[int | None]:
    """Say how many shapes had been traced at each moment; None where one was traced between the reports around it."""
    at = np.searchsorted([line["unix_time"] for line in reports], moments)
    counts = [0, *(line["n_traces"] for line in reports)]
    return [counts[place] if counts[place] == counts[min(place + 1, len(counts) - 1)] else None for place in at]


def tell_traces_apart(traces: Sequence[int | None], steps: Sequence[float], values: Sequence[float]) -> Growth:
    """Tell what memory grows by step by step from what stays in use for a shape.

    One slope is fitted to all stretches of steps in which no shape was traced, each with a level of its own.

    Args:
        traces: Shapes traced by then; moments at which that is not known are left out.
        steps: Taken by then.
        values: Memory in use.

    Returns:
        Growth by that slope, and from the first level to the last one. Where a shape was traced between any two
        reports, all growth is called the former.
    """
    stretches: dict[int, list[tuple[float, float]]] = {}
    for number, step, value in zip(traces, steps, values, strict=True):
        if number is not None:
            stretches.setdefault(number, []).append((step, value))
    if not stretches:
        return Growth(values[-1] - values[0], 0.0, 0)
    means = {number: np.mean(found, axis=0) for number, found in stretches.items()}
    apart = np.concatenate([np.array(found) - means[number] for number, found in stretches.items()])
    slope = float(apart[:, 0] @ apart[:, 1] / max(apart[:, 0] @ apart[:, 0], 1e-9))
    levels = [float(value - slope * step) for step, value in means.values()]
    between = slope * (steps[-1] - steps[0])
    return Growth(between, levels[-1] - levels[0], max(stretches) - min(stretches))
