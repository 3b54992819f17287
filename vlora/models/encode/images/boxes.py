"""Boxes of a row, written into its texts as its model's family writes them."""

from collections.abc import Iterable

import attrs

from ....data.format.boxes import BoxStyle, write_objects
from ....data.format.image_sizes import Size
from ....errors import SampleError
from ....types import Objects, Sample
from .headers import StoredImage
from .resizing import Resizer


def write_boxes(
    sample: Sample, objects: Objects, images: Iterable[StoredImage], style: BoxStyle | None, resizer: Resizer
) -> Sample:
    """Write a row's boxes and names into its texts.

    Args:
        sample: The row.
        objects: What it says of boxes and names.
        images: Its images.
        style: How the family writes boxes; None if that is not known.
        resizer: What becomes of the sizes of images.

    Raises:
        SampleError: There is no way to write them, or they do not lie in the row's images.
    """
    if style is None:
        msg = (
            f"{sample.source}: the row has boxes, and how this model's family writes them is not known; write them "
            "into the texts, or take the column 'objects' out"
        )
        raise SampleError(msg)
    sizes = [_sizes_of(image, style, resizer, sample.source) for image in images]
    turns = write_objects(sample.turns, objects, sizes, style, sample.source)
    return attrs.evolve(sample, turns=turns, objects=None)


def _sizes_of(image: StoredImage, style: BoxStyle, resizer: Resizer, source: str) -> tuple[Size, Size]:
    """Give an image's size as it is stored, and as the model is given it where boxes are written in pixels of that."""
    if style.scale is not None:
        return image.size, image.size
    try:
        return image.size, resizer.after_processor(image.size, image.asked)
    except ValueError as error:
        msg = f"{source}: cannot resize the image {image.name}: {error}"
        raise SampleError(msg) from None
