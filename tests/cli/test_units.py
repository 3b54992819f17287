"""Numbers as people read them."""

import pytest

from vlora.cli.units import format_bytes, format_count


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0.00 kB"), (100_000, "100.00 kB"), (20_000_000, "20.00 MB"), (1_500_000_000, "1.50 GB")],
)
def test_bytes(nbytes: int, text: str) -> None:
    """Two decimals of the largest unit that is not less than one."""
    assert format_bytes(nbytes) == text


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999"), (1000, "1.00k"), (8_700_000, "8.70M"), (2_127_532_032, "2.13B")]
)
def test_counts(number: int, text: str) -> None:
    """Small ones are whole."""
    assert format_count(number) == text
