"""Boxes of a row, written into its texts as its model's family writes them."""

from collections.abc import Sequence

import attrs

from ..boxes import BoxStyle, write_objects
from ..errors import SampleError
from ..sizes import Size
from ..types import Sample
from .images import ImageContent, stored_size
from .resizing import Resizer


def write_boxes(sample: Sample, contents: Sequence[ImageContent], style: BoxStyle | None, resizer: Resizer) -> Sample:
    """Write a row's boxes and names into its texts; a row without any stays as it is.

    Args:
        sample: The row.
        contents: Its images.
        style: How the family writes boxes; None if that is not known.
        resizer: What becomes of the sizes of images.

    Raises:
        SampleError: There is no way to write them, or they do not lie in the row's images.
    """
    if sample.objects is None:
        return sample
    if style is None:
        msg = (
            f"{sample.source}: the row has boxes, and how this model's family writes them is not known; write them "
            "into the texts, or take the column 'objects' out"
        )
        raise SampleError(msg)
    sizes = [_sizes_of(content, style, resizer, sample.source) for content in contents]
    turns = write_objects(sample.turns, sample.objects, sizes, style, sample.source)
    return attrs.evolve(sample, turns=turns, objects=None)


def _sizes_of(content: ImageContent, style: BoxStyle, resizer: Resizer, source: str) -> tuple[Size, Size]:
    """Give an image's size as it is stored, and as the model is given it where boxes are written in pixels of that."""
    stored = stored_size(content, source)
    if style.scale is not None:
        return stored, stored
    try:
        return stored, resizer.after_processor(stored, content.asked)
    except ValueError as error:
        msg = f"{source}: cannot resize the image {content.name}: {error}"
        raise SampleError(msg) from None
