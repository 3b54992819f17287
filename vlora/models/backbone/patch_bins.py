"""Places several images into bins of one length for a joint pass through a Qwen-VL tower. Pure.

Patches of several images are concatenated in bins, and bins form a pass. Attention runs within a bin; a mask separates
images where a bin has several of them or is not full. Lengths and numbers of bins take few values, so that images of
any sizes need few traces. Values that depend on an image's place or size enter a trace as arrays.
"""

import functools
from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

from ...types import IntArray

Grid = tuple[int, int, int]
"""Frames, rows and columns of an image, in patches."""

Floats = npt.NDArray[np.float32]

SMALL_BIN = 64
"""Length in patches up to which bins are as long as the longest image."""

BINS_PER_OCTAVE = 4
"""Number of bin lengths between a length and its double."""

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Possible numbers of bins of a pass; the last bins may be empty."""

MOST_SCORES = 2**26
"""Most elements of a pass's mask: 134 MB in bfloat16. A single bin may have more."""

MOST_PATCHES = 2**17
"""Most patches of a pass without a mask; a single image may have more."""

KEPT_GRIDS = 128
"""Number of image sizes whose coordinates and corners are cached on the host."""


@attrs.frozen
class Pass:
    """Images that go through the tower together.

    Attributes:
        members: Their numbers.
        starts: First place of each image's patches in the concatenated bins.
        n_bins: Bins, empty ones included.
        length: Patches of a bin.
        is_full: Every bin is filled by one frame of an image, or empty: no mask is needed.
    """

    members: tuple[int, ...]
    starts: tuple[int, ...]
    n_bins: int
    length: int
    is_full: bool

    @property
    def n_patches(self) -> int:
        """Places of all bins, in patches."""
        return self.n_bins * self.length


def count_patches(grid: Grid) -> int:
    """Count the patches of an image."""
    return grid[0] * grid[1] * grid[2]


def bin_length(n_patches: int, unit: int) -> int:
    """Round the patches of the longest image up to a bin's length, at most a quarter above; a multiple of `unit`."""
    octave = 2 ** ((n_patches - 1).bit_length() - 1) if n_patches > 1 else 1
    width = octave // BINS_PER_OCTAVE if n_patches > SMALL_BIN else 1
    length = -(-n_patches // width) * width
    return -(-length // unit) * unit


def plan_passes(grids: Sequence[Grid], unit: int) -> list[Pass]:
    """Put images into bins by first-fit decreasing.

    Args:
        grids: Grid of each image.
        unit: Patches that become one token; a bin's length is a multiple of it.

    Returns:
        The passes; every image is in one.
    """
    if not grids:
        return []
    sizes = [count_patches(grid) for grid in grids]
    # Images of one size are not padded: data sets of one size are frequent, and their attention needs no mask.
    length = sizes[0] if len(sizes) > 1 and len(set(sizes)) == 1 else bin_length(max(sizes), unit)
    bins: list[list[int]] = []
    room: list[int] = []
    for member in sorted(range(len(sizes)), key=lambda member: -sizes[member]):
        place = next((place for place, left in enumerate(room) if left >= sizes[member]), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(length)
        bins[place].append(member)
        room[place] -= sizes[member]
    is_full = all(len(own) == 1 and not left for own, left in zip(bins, room, strict=True))
    is_full = is_full and all(grid[0] == 1 for grid in grids)
    most = max(1, MOST_PATCHES // length if is_full else MOST_SCORES // length**2)
    most = max(count for count in COUNTS if count <= most)
    return [_make_pass(bins[first : first + most], sizes, length, is_full) for first in range(0, len(bins), most)]


def _make_pass(bins: Sequence[Sequence[int]], sizes: Sequence[int], length: int, is_full: bool) -> Pass:
    members: list[int] = []
    starts: list[int] = []
    for place, own in enumerate(bins):
        start = place * length
        for member in own:
            members.append(member)
            starts.append(start)
            start += sizes[member]
    n_bins = next(count for count in COUNTS if count >= len(bins))
    return Pass(tuple(members), tuple(starts), n_bins, length, is_full)


def lay_out_segments(found: Pass, grids: Sequence[Grid]) -> IntArray:
    """Number the frames of a pass's images.

    Args:
        found: The pass.
        grids: Grids of its members.

    Returns:
        i32[n_bins, length]: 0 where there is no patch.
    """
    segments = np.zeros(found.n_patches, dtype=np.int32)
    number = 0
    for start, (frames, rows, columns) in zip(found.starts, grids, strict=True):
        for frame in range(frames):
            number += 1
            first = start + frame * rows * columns
            segments[first : first + rows * columns] = number
    return segments.reshape(found.n_bins, found.length)


def lay_out(found: Pass, parts: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
    """Put values per patch at the places of the patches: [..., own patches] to [..., n_patches]."""
    result = np.zeros((*parts[0].shape[:-1], found.n_patches), dtype=parts[0].dtype)
    for start, part in zip(found.starts, parts, strict=True):
        result[..., start : start + part.shape[-1]] = part
    return result


@functools.lru_cache(KEPT_GRIDS)
def coordinates(grid: Grid, merge: int) -> IntArray:
    """Return the row and the column of every patch, in the processor's order: patches of a token are adjacent.

    Returns:
        i32[2, patches].
    """
    frames, rows, columns = grid
    both = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")).astype(np.int32)
    blocks = both.reshape(2, rows // merge, merge, columns // merge, merge).transpose(0, 1, 3, 2, 4)
    return np.tile(blocks.reshape(2, -1), (1, frames))


@functools.lru_cache(KEPT_GRIDS)
def corners(grid: Grid, merge: int, side: int) -> tuple[IntArray, Floats]:
    """Find the entries of a square table of positions around every patch, and their bilinear weights.

    Args:
        grid: The image's.
        merge: Patches of a token along each side.
        side: Entries of the table along each side; the image's corners lie on its corners.

    Returns:
        (i32[4, patches] entries, f32[4, patches] their weights).

    Source:
        Qwen3-VL, `fast_pos_embed_interpolate` of its published model.
    """
    frames, rows, columns = grid
    row, column = coordinates((1, rows, columns), merge)
    below, above = [], []
    shares = []
    for place, count in ((row, rows), (column, columns)):
        exact = np.linspace(0, side - 1, count, dtype=np.float32)[place]
        floor = exact.astype(np.int32)
        below.append(floor)
        above.append(np.minimum(floor + 1, side - 1))
        shares.append(exact - floor.astype(np.float32))
    entries = [first * side + second for first in (below[0], above[0]) for second in (below[1], above[1])]
    weights = [first * second for first in (1 - shares[0], shares[0]) for second in (1 - shares[1], shares[1])]
    return (
        np.tile(np.stack(entries).astype(np.int32), (1, frames)),
        np.tile(np.stack(weights).astype(np.float32), (1, frames)),
    )


@functools.lru_cache(KEPT_GRIDS)
def windows(grid: Grid, merge: int, side: int) -> tuple[IntArray, IntArray]:
    """Order an image's tokens by windows.

    Args:
        grid: The image's.
        merge: Patches of a token along each side.
        side: Tokens of a window along each side; those at the lower and right edges are smaller.

    Returns:
        (i32[tokens] the token at each place, i32[tokens] the window there, from 0).

    Source:
        Qwen2.5-VL (arXiv 2502.13923), section 2.1.1.
    """
    frames, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
    frame, row, column = np.indices((frames, rows, columns)).reshape(3, -1)
    across = -(-columns // side)
    window = (frame * -(-rows // side) + row // side) * across + column // side
    order = np.argsort(window, kind="stable").astype(np.int32)
    return order, window[order].astype(np.int32)
