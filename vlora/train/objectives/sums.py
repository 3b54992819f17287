"""Values of tokens and of examples, added up by what they belong to, for objectives. Pure, and safe to trace."""

import mlx.core as mx

from ...types import Targets

GRID = 2.0**-10
"""Multiples of it are added without rounding in float32, as long as their sum stays below 2**14."""


def sum_by_example(values: mx.array, targets: Targets) -> mx.array:
    """Add up values of tokens by the example that they belong to.

    Args:
        values: f32[N].
        targets: Those of the same tokens.

    Returns:
        f32[S]; 0 for an example without a target.
    """
    return mx.zeros(targets.example_weights.shape).at[targets.example].add(values)


def sum_in_two_parts(values: mx.array, targets: Targets) -> tuple[mx.array, mx.array]:
    """Add up values of tokens by example more exactly than one float32 can hold, whatever order they are added in.

    The last digit of a sum of -2,000 nats is 1e-4: more than the losses of two runs may differ by.

    Args:
        values: f32[N].
        targets: Those of the same tokens.

    Returns:
        (f32[S] sums of values rounded to multiples of `GRID`, without a gradient; f32[S] sums of what is left).
    """
    rounded = mx.stop_gradient(mx.round(values / GRID) * GRID)
    return sum_by_example(rounded, targets), sum_by_example(values - rounded, targets)


def sum_by_group(values: mx.array, targets: Targets) -> mx.array:
    """Add up values of examples by the group that they belong to.

    Args:
        values: f32[S]; those of fillers count for nothing.
        targets: Those of the same examples.

    Returns:
        f32[S], group by group; 0 beyond the groups that there are.
    """
    weighed = mx.where(targets.example_weights > 0, values, 0)
    return mx.zeros(targets.group.shape).at[targets.group].add(weighed)


def read_column(name: str, targets: Targets) -> mx.array:
    """Give a column of examples, f32[S]; 0 for fillers, and for all where it is missing."""
    return targets.columns.get(name, mx.zeros_like(targets.example_weights)) * targets.example_weights
