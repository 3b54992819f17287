"""Axes with round numbers. Pure."""

import math
from collections.abc import Sequence

import attrs

MARGIN = 0.04
"""Share of an axis that is left free beside the outermost values."""

TINY = 1e-300
"""Differences of values up to this count as rounding errors."""

LEAST_PLAIN, MOST_PLAIN = 1e-2, 1e7
"""Axes whose largest number is within this range are written without powers of ten."""


@attrs.frozen(kw_only=True)
class Axis:
    """An axis, which maps values to places along a side of a chart.

    Attributes:
        low: Its first value.
        high: Its last one.
        ticks: Round values between.
        labels: As they are written.
        is_log: Whether the axis is logarithmic.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return a value's place: 0 for `low`, 1 for `high`."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def make_axis(
    values: Sequence[float], n_ticks: int, *, is_log: bool = False, is_whole: bool = False, from_zero: bool = False
) -> Axis:
    """Make an axis for values.

    Args:
        values: The values, at least one.
        n_ticks: How many ticks there is room for; there may be one more.
        is_log: Whether it is logarithmic; all values are positive then.
        is_whole: Whether it counts: its ticks are whole numbers, and nothing is left free beside its values.
        from_zero: Whether it begins at 0.
    """
    low, high = min(values), max(values)
    if is_log:
        return _log_axis(low, high, n_ticks)
    low = min(0.0, low) if from_zero else low
    if high - low <= max(abs(high) * 1e-9, TINY):
        pad = 1.0 if is_whole or abs(high) <= TINY else abs(high) / 2
        # A score that is 0 all along has no negative range, either.
        low, high = (low, high + pad) if is_whole or from_zero or 0 <= low < pad else (low - pad, high + pad)
    elif not is_whole:
        pad = (high - low) * MARGIN
        # No negative range if no value is negative.
        low, high = max(0.0, low - pad) if low >= 0 else low - pad, high + pad
    step = _round_step((high - low) / (n_ticks + 0.5), is_whole=is_whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    largest = max(map(abs, ticks), default=0.0)
    labels = tuple(write_number(tick, step, is_plain=LEAST_PLAIN <= largest < MOST_PLAIN) for tick in ticks)
    return Axis(low=low, high=high, ticks=ticks, labels=labels)


def _round_step(least: float, *, is_whole: bool) -> float:
    """Give the smallest round number that is not below another one."""
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    return max(1.0, step) if is_whole else step


def _log_axis(low: float, high: float, n_ticks: int) -> Axis:
    margin = (high / low) ** MARGIN if high > low else 2.0
    low, high = low / margin, high * margin
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [10.0**power * factor for power in range(first, last + 1) for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= n_ticks:
            break
    else:
        ticks = ticks[:: math.ceil(len(ticks) / max(1, n_ticks))]
    labels = tuple(
        write_number(tick, 10.0 ** math.floor(math.log10(tick) + 1e-9), is_plain=LEAST_PLAIN / 10 <= tick < MOST_PLAIN)
        for tick in ticks
    )
    return Axis(low=low, high=high, ticks=tuple(ticks), labels=labels, is_log=True)


def write_number(value: float, step: float, *, is_plain: bool = True) -> str:
    """Write a value of an axis as exactly as its steps ask for: "1,000", "0.05"; or with a power of ten: "2e-5"."""
    if abs(value) < step * 1e-6:
        return "0"
    exponent = math.floor(math.log10(step) + 1e-9)
    if is_plain:
        return f"{value:,.{max(0, -exponent)}f}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value / 10.0**power:.{max(0, power - exponent)}f}e{power}"
