"""Few lengths and few numbers of places: what rounding up keeps and what it costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.ops.buckets import bucket_examples, bucket_length, bucket_targets


@given(st.integers(1, 10**7))
def test_bucket_length(n_tokens: int) -> None:
    """A bucket holds its length, is its own bucket, and wastes at most 12.5 % from 256 tokens on."""
    length = bucket_length(n_tokens)

    assert length >= n_tokens
    assert bucket_length(length) == length
    assert length % 32 == 0
    if n_tokens >= 256:
        assert length <= 1.125 * n_tokens


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_bucket_length_is_monotonic(first: int, second: int) -> None:
    """A longer row never gets a shorter bucket."""
    assert (bucket_length(first) <= bucket_length(second)) or first > second


def test_number_of_buckets() -> None:
    """All lengths up to the default maximum fall into at most 32 buckets."""
    assert len({bucket_length(n_tokens) for n_tokens in range(1, 2049)}) <= 32


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_bucket_targets(n_positions: int, n_targets: int) -> None:
    """The head runs at no fewer places than are asked for, and at one of few numbers of them."""
    n_targets = min(n_targets, n_positions)
    sizes = {
        bucket_targets(count, n_positions) for count in (0, n_positions // 5, n_positions // 3, n_targets, n_positions)
    }

    assert n_targets <= bucket_targets(n_targets, n_positions) <= max(2 * n_targets, n_positions // 8 + 1, 1)
    assert bucket_targets(n_targets, n_positions) <= n_positions
    assert max(sizes) == n_positions


@pytest.mark.parametrize("n_positions", [1, 7, 64, 100, 2048, 5632, 6400])
def test_the_head_runs_at_seven_numbers_of_places(n_positions: int) -> None:
    """Every number of supervised tokens counted."""
    assert len({bucket_targets(count, n_positions) for count in range(n_positions + 1)}) <= 7


def test_longer_prompts_are_no_other_number_of_places() -> None:
    """Answers of like length run the head at as many places, however long the rows are."""
    assert {bucket_targets(700, 16 * length) for length in range(320, 449, 32)} == {1024}


@given(st.integers(0, 10**6))
def test_bucket_examples(n_examples: int) -> None:
    """A power of two that holds them, less than twice as many."""
    size = bucket_examples(n_examples)

    assert size & (size - 1) == 0
    assert max(1, n_examples) <= size < max(2, 2 * n_examples)
