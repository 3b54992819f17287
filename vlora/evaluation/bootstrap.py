"""Intervals of values over rows: rows are drawn again, with replacement (the percentile bootstrap). Pure."""

from collections.abc import Iterator, Mapping

import numpy as np

from .metric import Array, Sums

N_DRAWS = 1000
"""Sets of rows that are drawn."""

LEVEL = 0.95
"""Share of the drawn values that lie within an interval."""

SEED = 0
MOST_COUNTS = 2**21
"""Numbers of one piece of the draws, so that many rows take no more memory than few."""


def find_intervals(values: Mapping[str, Sums]) -> dict[str, tuple[float, float]]:
    """Give the intervals that hold 95 % of the values of sets of as many rows, drawn from these.

    The same rows have the same interval, whatever was drawn before. One row has no width.

    Args:
        values: Names to what the values are made of. Those of as many rows share the draws.

    Returns:
        Names to (low, high).
    """
    by_number: dict[int, dict[str, Sums]] = {}
    for name, sums in values.items():
        by_number.setdefault(len(sums.terms), {})[name] = sums
    found: dict[str, tuple[float, float]] = {}
    for n_rows, alike in by_number.items():
        drawn: dict[str, list[Array]] = {name: [] for name in alike}
        for counts in _draw(n_rows):
            for name, sums in alike.items():
                drawn[name].append(sums.combine(counts @ sums.terms))
        for name, parts in drawn.items():
            low, high = np.quantile(np.concatenate(parts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            found[name] = float(low), float(high)
    return found


def _draw(n_rows: int) -> Iterator[Array]:
    """Count how often each row is drawn into each set, in pieces of f64[sets, n_rows]."""
    generator = np.random.default_rng(SEED)
    size = max(1, MOST_COUNTS // n_rows)
    for begin in range(0, N_DRAWS, size):
        n_draws = min(size, N_DRAWS - begin)
        places = generator.integers(n_rows, size=(n_draws, n_rows)) + np.arange(n_draws)[:, None] * n_rows
        counts = np.bincount(places.ravel(), minlength=n_draws * n_rows)
        yield counts.reshape(n_draws, n_rows).astype(np.float64)
