"""How long rows will be, without decoding their images: good enough to put rows of like length together.

What a processor makes of an image is its own affair, so it is asked, once per size: with a blank image.
"""

import attrs
from PIL import Image

from ...data.format.boxes import write_objects
from ...data.format.image_sizes import Size
from ...errors import SampleError
from ...ops.buckets import bucket_length
from ...types import ImageSlot, Sample, Turn
from .encoder import Encoder
from .images.headers import read_size

UNKNOWN_SIZE = (512, 512)
"""(width, height) taken for images whose size is not known before they are read, as those behind a URL."""

CORNER = (0.25, 0.25, 0.5, 0.5)
"""The box that stands for any other, as shares of the image's sides."""


@attrs.define(eq=False)
class LengthEstimator:
    """Estimates the lengths of one family's rows; several threads may ask at once.

    Exact for text, and for images whose sides are among the sizes of `bucket_length` (multiples of 32 pixels, coarser
    for large ones); others count as the next such size.

    Attributes:
        encoder: The family's encoder.
    """

    encoder: Encoder
    _n_image_tokens: dict[Size, int] = attrs.field(factory=dict, init=False)

    def __call__(self, sample: Sample) -> int:
        """Estimate a row's number of tokens; 0 if it cannot be encoded, which encoding will say."""
        data = self.encoder.data
        if self.encoder.family.format.is_encoder_decoder:
            # The decoder's tokens; images and task are the encoder's.
            return min(len(self._tokenize("".join(turn.text for turn in sample.turns))), data.max_seq_length)
        try:
            n_tokens = self._count_text(self._with_boxes(sample))
        except SampleError:
            return 0
        for image in sample.images:
            size = read_size(image, self.encoder.resizer) or UNKNOWN_SIZE
            n_tokens += self._count_image((bucket_length(size[0]), bucket_length(size[1])))
        return min(n_tokens, data.max_seq_length)

    def _with_boxes(self, sample: Sample) -> Sample:
        """Write boxes into the texts as if each were a corner of its image: about as many figures."""
        if sample.objects is None or self.encoder.family.format.boxes is None:
            return sample
        corners = tuple(tuple(CORNER[: len(box)]) for box in sample.objects.boxes)
        objects = attrs.evolve(sample.objects, boxes=corners, is_relative=True)
        sizes = [(UNKNOWN_SIZE, UNKNOWN_SIZE)] * len(sample.images)
        turns = write_objects(sample.turns, objects, sizes, self.encoder.family.format.boxes, sample.source)
        return attrs.evolve(sample, turns=turns, objects=None)

    def _count_text(self, sample: Sample) -> int:
        return len(self._tokenize(self.encoder.render(sample)))

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _count_image(self, size: Size) -> int:
        """Count the tokens that an image adds to those of its placeholder."""
        if size not in self._n_image_tokens:
            turns = (Turn("user", (ImageSlot(0), "What is it?")), Turn("assistant", ("It is blank.",)))
            sample = Sample(f"a blank image of {size[0]} x {size[1]} pixels", turns, (Image.new("RGB", size),))
            try:
                count = len(self.encoder.encode_untruncated(sample).tokens) - self._count_text(sample)
            except SampleError:
                count = 0
            self._n_image_tokens[size] = max(0, count)
        return self._n_image_tokens[size]
