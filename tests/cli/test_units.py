"""Numbers as people read them."""

import pytest

from vlora.cli.units import format_bytes, format_count


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0.00 kB"), (1234, "1.23 kB"), (999_999, "1000.00 kB"), (10**6, "1.00 MB"), (1_500_000_000, "1.50 GB")],
)
def test_bytes_have_decimal_units(nbytes: int, text: str) -> None:
    """The largest unit that the number has one of."""
    assert format_bytes(nbytes) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.00k"), (35_400_000, "35.40M"), (2_210_000_000, "2.21B")]
)
def test_counts_have_one_letter(number: int, text: str) -> None:
    """Below a thousand they are written whole."""
    assert format_count(number) == text
