"""Rows as they will be encoded, but for their images' pixels: exact in every token, at the cost of text and headers.

How many tokens stand for an image depends on its size. Where a processor's rule for that is known it is applied; others
are asked, with blank images, once per size, or once per the sizes of a row where its images do not count one by one.
"""

import attrs
from PIL import Image

from ...data.format.image_sizes import Size
from ...errors import SampleError
from ...types import Example, ImageSlot, Sample, Turn
from .encoder import Encoder
from .images.headers import read_size
from .images.opening import decode_image, read_image

WIDE, TALL = (1300, 700), (90, 150)
"""Sizes with which it is tried whether a row's images count one by one: with tiles, and without."""


@attrs.define(eq=False)
class RowMeasurer:
    """Encodes one family's rows without decoding their images; several threads may ask at once.

    Attributes:
        encoder: The family's encoder.
    """

    encoder: Encoder
    _known: dict[tuple[Size, ...], tuple[int, ...]] = attrs.field(factory=dict, init=False)
    _counts_alone: bool | None = attrs.field(default=None, init=False)

    def __call__(self, sample: Sample) -> Example:
        """Encode a row; all of the example is as training has it, but `inputs`, `image_keys` and the placeholders' ids.

        A file whose header is whole is taken for an image: what is damaged behind it shows only when it is decoded.

        Raises:
            SampleError: The row cannot be learned from; the message begins with its source.
        """
        sizes = tuple(self._find_size(image, sample.source) for image in sample.images)
        sample = self.encoder.write_boxes(sample)
        if not sizes or self.encoder.family.format.is_encoder_decoder:
            n_tokens: tuple[int, ...] = ()
        else:
            try:
                n_tokens = self._count(sizes)
            except SampleError:
                # The processor does not take such images: it says so of the row itself.
                return self.encoder(sample)
        return attrs.evolve(self.encoder.sketch(sample, n_tokens), image_sizes=sizes)

    def describe(self) -> str:
        """Say how the tokens of images are counted."""
        if self.encoder.family.format.is_encoder_decoder:
            return "images are the encoder's and no tokens of the row"
        if self.encoder.resizer.budget is not None:
            return "tokens of images are computed from their sizes"
        return "tokens of images are asked of the model's processor, once per size"

    def _find_size(self, image: object, source: str) -> Size:
        """Find what size an image has for the processor, from its header if there is one that says it."""
        resizer = self.encoder.resizer
        size = read_size(image, resizer, to_end=True)
        if size is not None and resizer.shape is None:
            return size
        if size is not None and read_size(image) is not None:
            return size
        content = read_image(image, source, allow_urls=self.encoder.data.allow_urls)
        return decode_image(content, source, resizer).size

    def _count(self, sizes: tuple[Size, ...]) -> tuple[int, ...]:
        """Count the tokens of a row's images."""
        budget = self.encoder.resizer.budget
        if budget is not None:
            try:
                given = [self.encoder.resizer.after_processor(size) for size in sizes]
            except ValueError:
                return self._ask(sizes)
            return tuple(width * height // budget.factor**2 for width, height in given)
        if len(sizes) > 1 and self._is_counted_alone():
            return tuple(self._ask((size,))[0] for size in sizes)
        return self._ask(sizes)

    def _is_counted_alone(self) -> bool:
        """Whether an image takes as many tokens beside others as it takes alone."""
        if self._counts_alone is None:
            together = (WIDE, TALL, WIDE, TALL, TALL)
            try:
                alone = {size: self._ask((size,))[0] for size in (WIDE, TALL)}
                is_alone = all(
                    self._ask(sizes) == tuple(alone[size] for size in sizes) for sizes in (together[:2], together)
                )
            except SampleError:
                is_alone = False
            self._counts_alone = is_alone
        return self._counts_alone

    def _ask(self, sizes: tuple[Size, ...]) -> tuple[int, ...]:
        """Ask the processor, with blank images."""
        if sizes not in self._known:
            images = tuple(Image.new("RGB", size) for size in sizes)
            parts = [part for number in range(len(sizes)) for part in (ImageSlot(number), "What is it?")]
            turns = (Turn("user", tuple(parts)), Turn("assistant", ("It is blank.",)))
            self._known[sizes] = self.encoder.count_image_tokens(Sample("blank images", turns, images))
        return self._known[sizes]
