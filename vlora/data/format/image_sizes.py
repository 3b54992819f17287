"""Sizes that a row requests within an image part, in the format of Qwen's own loader (qwen-vl-utils). Pure.

A row requests either both sides or bounds of the number of pixels; results are rounded to whole patches. Sizes that
the model's processor would change again are refused, so that the model sees the requested size.
"""

import math
from collections.abc import Mapping
from typing import Any

import attrs

from ...errors import SampleError

SIDES = ("resized_height", "resized_width")
BOUNDS = ("min_pixels", "max_pixels")
SIZE_KEYS = (*SIDES, *BOUNDS)
"""Keys of an image part that request a size."""

VIDEO_KEYS = ("nframes", "fps", "min_frames", "max_frames", "total_pixels")
"""Keys of the same loader for videos."""

LONGEST_SHAPE = 200
"""Largest ratio of a picture's longer side to its shorter one."""
LARGEST_NUMBER = 2**31

Size = tuple[int, int]
"""(width, height) in pixels."""


@attrs.frozen
class Asked:
    """The size that a row requests for an image; None for values that it does not request.

    Attributes:
        resized_height: Pixels, rounded to whole patches.
        resized_width: See above.
        min_pixels: Pixels of the picture at least.
        max_pixels: Pixels of the picture at most.
    """

    resized_height: int | None = None
    resized_width: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __str__(self) -> str:
        """Describe the request in the row's own keys."""
        found = attrs.asdict(self, filter=lambda _, value: value is not None)
        return ", ".join(f"{key} = {value}" for key, value in found.items())


@attrs.frozen(eq=False)
class SizedImage:
    """An image with a requested size.

    Attributes:
        image: As in `Sample.images`.
        asked: The requested size.
    """

    image: Any
    asked: Asked


@attrs.frozen
class Budget:
    """The sizes that a processor does not change.

    Attributes:
        factor: Sides are multiples of it.
        min_pixels: Pixels of a picture at least.
        max_pixels: Pixels of a picture at most.
    """

    factor: int
    min_pixels: int
    max_pixels: int


def read_asked(part: Mapping[str, Any], where: str) -> Asked | None:
    """Read the size that an image part requests; None if it requests none.

    Args:
        part: The part; other keys are ignored.
        where: The row and its turn, for errors.

    Raises:
        SampleError: A size is invalid, a side is requested alone or together with bounds, or a key is for videos.
    """
    found = {key: part[key] for key in (*SIZE_KEYS, *VIDEO_KEYS) if part.get(key) is not None}
    videos = [key for key in found if key in VIDEO_KEYS]
    if videos:
        msg = f"{where} has an image part with {', '.join(videos)}, which an image has not; take it out"
        raise SampleError(msg)
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 != 0:
            msg = f"{where} has an image part with {key} = {value!r}, expected a whole number"
            raise SampleError(msg)
        if not 1 <= value <= LARGEST_NUMBER:
            msg = f"{where} has an image part with {key} = {value!r}, expected 1 to {LARGEST_NUMBER:,}"
            raise SampleError(msg)
    if not found:
        return None
    asked = Asked(**{key: int(value) for key, value in found.items()})
    sides = [key for key in SIDES if key in found]
    if len(sides) == 1 or (sides and len(found) > len(SIDES)):
        msg = (
            f"{where} has an image part with {asked}; give both {' and '.join(SIDES)}, or {' and '.join(BOUNDS)}, "
            "not some of both"
        )
        raise SampleError(msg)
    return asked


def fit_to_patches(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Return the nearest size of whole patches within bounds, like `smart_resize` of qwen-vl-utils.

    Args:
        size: Of the picture.
        factor: Sides are multiples of it.
        min_pixels: Pixels at least.
        max_pixels: Pixels at most.

    Raises:
        ValueError: The picture is too elongated.
    """
    width, height = size
    if max(size) > LONGEST_SHAPE * min(size):
        msg = f"{width} x {height} pixels are more than {LONGEST_SHAPE} times as long on one side as on the other"
        raise ValueError(msg)
    fitted = [max(factor, round(side / factor) * factor) for side in size]
    n_pixels = fitted[0] * fitted[1]
    if n_pixels > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        fitted = [max(factor, math.floor(side / shrink / factor) * factor) for side in size]
    elif n_pixels < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        fitted = [math.ceil(side * grow / factor) * factor for side in size]
    return fitted[0], fitted[1]


def settle_size(size: Size, asked: Asked, budget: Budget) -> Size:
    """Return the size that an image with a request gets.

    Args:
        size: Of the picture.
        asked: The row's request.
        budget: The processor's limits; sizes that it would change again are refused.

    Raises:
        ValueError: The request cannot be met; the message says why, and what to do.
    """
    low, high = asked.min_pixels or 1, asked.max_pixels or budget.max_pixels
    if asked.resized_height is not None and asked.resized_width is not None:
        wanted = fit_to_patches((asked.resized_width, asked.resized_height), budget.factor, 1, LARGEST_NUMBER**2)
    else:
        # Both the row's and the processor's bounds have to hold.
        low, high = max(low, budget.min_pixels), min(high, budget.max_pixels)
        wanted = fit_to_patches(size, budget.factor, low, high)
    n_pixels = wanted[0] * wanted[1]
    if not max(low, budget.min_pixels) <= n_pixels <= min(high, budget.max_pixels):
        msg = (
            f"with {asked} it would have {wanted[0]} x {wanted[1]} pixels, and the model's processor takes "
            f"{budget.min_pixels:,} to {budget.max_pixels:,}; ask for another size, or change data.max_pixels"
        )
        raise ValueError(msg)
    return wanted
