"""Intervals of values over rows: rows are drawn again, with replacement (the percentile bootstrap). Pure."""

import numpy as np

from .metric import Array, Sums

N_DRAWS = 1000
"""Sets of rows that are drawn."""

LEVEL = 0.95
"""Share of the drawn values that lie within an interval."""

SEED = 0
MOST_COUNTS = 2**21
"""Numbers of one piece of the draws, so that many rows take no more memory than few."""


def find_interval(sums: Sums) -> tuple[float, float]:
    """Give the interval that holds 95 % of the values of sets of as many rows, drawn from these.

    The same rows have the same interval, whatever was drawn before. One row has no width.

    Args:
        sums: What the value is made of.

    Returns:
        (low, high).
    """
    n_rows = len(sums.terms)
    generator = np.random.default_rng(SEED)
    values = []
    size = max(1, MOST_COUNTS // n_rows)
    for begin in range(0, N_DRAWS, size):
        n_draws = min(size, N_DRAWS - begin)
        values.append(sums.combine(_draw(generator, n_draws, n_rows) @ sums.terms))
    low, high = np.quantile(np.concatenate(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _draw(generator: np.random.Generator, n_draws: int, n_rows: int) -> Array:
    """Count how often each row is drawn into each set, f64[n_draws, n_rows]."""
    drawn = generator.integers(n_rows, size=(n_draws, n_rows))
    places = drawn + np.arange(n_draws)[:, None] * n_rows
    counts = np.bincount(places.ravel(), minlength=n_draws * n_rows)
    return counts.reshape(n_draws, n_rows).astype(np.float64)
