"""Rounds lengths and counts up to one of few values, so that a run traces few shapes. Pure."""

SMALLEST_BUCKET = 32
"""Shortest padded length in tokens: a trace for shorter rows would cost more than it saves."""

BUCKETS_PER_OCTAVE = 8
"""Most buckets between a length and its double, so that at most 12.5 % is padding."""

FEWEST_SELECTED = 16
"""Smallest share of a batch's places at which the head runs: fewer different numbers need fewer traces."""


def bucket_length(n_tokens: int, multiple: int = SMALLEST_BUCKET) -> int:
    """Round a length up to one of few values, so that a run traces few shapes.

    Args:
        n_tokens: At least 1.
        multiple: What every length is a multiple of; a power of two, or no less than `n_tokens`. Some devices are
            faster at multiples of more.

    Returns:
        A multiple of `multiple`, at most 12.5 % above `n_tokens` from 8 `multiple` tokens on; lengths up to L fall
        into 8 log2(L / (8 multiple)) + 8 buckets.
    """
    octave = 2 ** max(0, (n_tokens - 1).bit_length() - 1)
    width = max(multiple, octave // BUCKETS_PER_OCTAVE)
    return int(-(-n_tokens // width) * width)


def bucket_targets(n_targets: int, n_positions: int) -> int:
    """Round the number of places at which the head runs up to one of at most seven.

    They are powers of two, from a quarter of all places on also one and a half times such, and all places. None depends
    on the batch's length: batches whose answers are alike share one, whatever the prompts.
    """
    size = 1 << max(0, (n_positions - 1) // FEWEST_SELECTED).bit_length()
    while size < n_targets:
        between = size * 3 // 2
        if size * 4 >= n_positions and between >= n_targets:
            size = between
            break
        size *= 2
    return min(size, n_positions)


def bucket_examples(n_examples: int) -> int:
    """Round the number of a batch's examples up to a power of two, so that packed rows trace few shapes."""
    return 1 << max(0, n_examples - 1).bit_length()
