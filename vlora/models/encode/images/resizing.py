"""Sizes of images: what the recipe and the row ask, and what the processor makes of it."""

import copy
import math
from typing import Any

import attrs

from ....data.format.image_sizes import Asked, Budget, Size, fit_to_patches, settle_size


@attrs.frozen
class Resizer:
    """What becomes of an image's size on its way to the model.

    Attributes:
        shape: (height, width) that every image gets before the processor; None if sizes are left.
        max_pixels: What images are scaled down to before the processor; None where it scales them itself.
        budget: What the processor leaves as it is, where rows may ask for sizes; None where they may not.
    """

    shape: tuple[int, int] | None = None
    max_pixels: int | None = None
    budget: Budget | None = None

    def before_processor(self, size: Size, asked: Asked | None = None) -> Size:
        """Say what size the processor is given.

        Args:
            size: Of the upright picture, as is every size here.
            asked: What the row asks for this image.

        Raises:
            ValueError: What is asked cannot be given; why, and what to do.
        """
        if asked is not None:
            return self._give_asked(size, asked)
        if self.shape is not None:
            return self.shape[1], self.shape[0]
        if self.max_pixels is not None and size[0] * size[1] > self.max_pixels:
            return fit_size(size, self.max_pixels)
        return size

    def after_processor(self, size: Size, asked: Asked | None = None) -> Size:
        """Say what size the model is given, of a processor with a budget.

        Raises:
            ValueError: As `before_processor`; or the processor has none.
        """
        if self.budget is None:
            msg = "its size behind the model's processor is not known, in which its boxes would have to be written"
            raise ValueError(msg)
        budget = self.budget
        given = self.before_processor(size, asked)
        return given if asked else fit_to_patches(given, budget.factor, budget.min_pixels, budget.max_pixels)

    def _give_asked(self, size: Size, asked: Asked) -> Size:
        if self.budget is None:
            msg = (
                f"the row asks for {asked}, and this model takes no sizes of rows; take it out, or set data.max_pixels"
            )
            raise ValueError(msg)
        if self.shape is not None:
            msg = (
                f"the row asks for {asked}, and data.image_resize_shape gives all images one; leave one of the two out"
            )
            raise ValueError(msg)
        return settle_size(size, asked, self.budget)


def find_budget(processor: Any) -> Budget | None:
    """Find what sizes a processor leaves as they are, if it works as Qwen's do; None if it does not."""
    images = getattr(processor, "image_processor", None)
    edges = getattr(images, "size", None)
    edges = edges if isinstance(edges, dict) else {}
    low = getattr(images, "min_pixels", None) or edges.get("shortest_edge")
    high = getattr(images, "max_pixels", None) or edges.get("longest_edge")
    patch, merge = getattr(images, "patch_size", None), getattr(images, "merge_size", None)
    if not all(isinstance(number, int) and number > 0 for number in (low, high, patch, merge)):
        return None
    return Budget(factor=int(patch or 1) * int(merge or 1), min_pixels=int(low or 1), max_pixels=int(high or 1))


def fit_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """Scale a size down to at most so many pixels, its aspect kept as far as whole pixels allow.

    Args:
        size: (width, height), of more pixels.
        max_pixels: At least 1.
    """
    shorter, longer = sorted(size)
    factor = math.sqrt(max_pixels / (shorter * longer))
    shorter = max(1, int(shorter * factor))
    # Where the shorter side would vanish, the longer one has to give.
    longer = max(1, min(int(longer * factor), max_pixels // shorter))
    return (longer, shorter) if size[0] > size[1] else (shorter, longer)


def with_budget(processor: Any, max_pixels: int | None) -> tuple[Any, int | None]:
    """Give a processor a budget of pixels, if it has one of its own.

    Args:
        processor: A model's; it stays as it is.
        max_pixels: The budget; None for the processor's own.

    Returns:
        The processor to use, and what images have to be scaled down to before it; None where it does so itself.
    """
    images: Any = getattr(processor, "image_processor", None)
    if max_pixels is None or not isinstance(getattr(images, "max_pixels", None), int):
        return processor, max_pixels
    processor, images = copy.copy(processor), copy.copy(images)
    processor.image_processor = images
    images.max_pixels = max_pixels
    if isinstance(getattr(images, "min_pixels", None), int):
        images.min_pixels = min(images.min_pixels, max_pixels)
    if isinstance(getattr(images, "size", None), dict) and {"shortest_edge", "longest_edge"} <= images.size.keys():
        # Where there are both, they are the same two numbers.
        images.size = {**images.size, "shortest_edge": images.min_pixels, "longest_edge": max_pixels}
    return processor, None
