"""From a `Sample` to an `Example`: the chat template, the processor, the masks.

The template decides the text and the processor decides the image tokens; nothing of either is imitated here.
How a template wants its messages, and how a processor wants its text, is found out by trying, once per model.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import attrs
import numpy as np
from PIL import Image

from ...arguments import expect_type
from ...data.masking import expand_placeholders
from ...data.truncate import truncate
from ...errors import SampleError
from ...facts import TemplateUse
from ...features.processed import Processed, ProcessedCache
from ...recipe.schema import DataSection
from ...system.digests import digest
from ...types import BoolArray, Example, IntArray, Sample, Turn
from ..families.family import Family
from .fingerprint import preparation_fingerprint
from .images.boxes import write_boxes
from .images.headers import StoredImage, look_at_image, stored_image
from .images.opening import ImageContent, decode_image, read_image
from .images.resizing import Resizer, find_budget
from .processor_call import BLANK_QUESTION, BLANK_SIZE, ProcessorCall
from .row_images import AnswerExchange, RowImages
from .template.conversation import Conversations
from .tokens import RowTokenizer
from .writer import RowWriter, Written


@attrs.define(eq=False)
class Encoder:
    """Encodes one family's rows. Make it with `make_encoder`; call it with a `Sample`.

    Attributes:
        processor: The model's processor.
        tokenizer: The processor's tokenizer.
        family: The family's description.
        template: The chat template; empty where no conversation is written.
        image_token: The text that stands for an image in what the processor is given.
        image_id: The token that stands for one in what the model is given; negative if it is not of the vocabulary.
        data: The recipe's section.
        template_origin: Whose the chat template is.
        stop_ids: The tokens at which generation ends.
        max_pixels: What images are scaled down to before the processor; None where it scales them itself.
        preparation: Stands for all that decides what an image becomes before the tower; in the keys of images, which
            an encoder without it gives none. See `with_image_keys`.
        memory: Remembers rows whose images need not be looked at again; None to look at all.
    """

    processor: Any
    tokenizer: Any
    family: Family
    template: str
    image_token: str
    image_id: int
    data: DataSection
    template_origin: TemplateUse = attrs.field(factory=lambda: TemplateUse(origin="model"))
    stop_ids: tuple[int, ...] = ()
    max_pixels: int | None = None
    preparation: str = ""
    memory: ProcessedCache | None = None

    def __call__(self, sample: Sample) -> Example:
        """Encode a row; the processor runs once, or not at all if the row is remembered.

        Raises:
            SampleError: The row cannot be learned from; the message begins with its source.
        """
        expect_type(sample, Sample, "the encoder", "give a Sample, as format_sample makes it of a row")
        return self._finish(self.encode_untruncated(sample))

    def encode_answers(self, samples: Sequence[Sample]) -> tuple[Example, ...]:
        """Encode the answers of one row: each as it would be alone, but images are read and processed once.

        Args:
            samples: The row with each of its answers. They show the same images.

        Raises:
            SampleError: As of `__call__`.
        """
        images = RowImages()
        return tuple(self._finish(self._encode(sample, images)[0]) for sample in samples)

    def with_image_keys(self, memory: ProcessedCache | None = None) -> Self:
        """Let examples say what their images are known by, under which features are kept, and rows in a memory."""
        preparation = preparation_fingerprint(self.processor, self.data, self.max_pixels)
        return attrs.evolve(self, preparation=preparation, memory=memory)

    def encode_question(self, sample: Sample) -> tuple[Example, str, str]:
        """Encode a row whose last answer is going to be asked for, however long it is.

        Returns:
            The row with its answer, the text before that answer, and the answer without its end.

        Raises:
            SampleError: The row cannot be encoded.
        """
        example, written = self._encode(sample)
        return self._settle(example), *self.writer.divide(sample, written)

    def prepare(self, first_samples: Iterable[Sample]) -> None:
        """Settle the template's style and the processor's call, so that no thread's order decides them.

        Each is found by trying: on the first of the rows that has an image, or on a blank question where none has. The
        row's images are not opened; blank ones are processed in their place.

        Args:
            first_samples: Rows in a fixed order; no more are drawn than are needed.
        """
        for sample in itertools.chain(first_samples, [BLANK_QUESTION]):
            if sample.images and not self.processor_call.is_settled:
                # A row that cannot be encoded is reported when it is its turn.
                with contextlib.suppress(SampleError):
                    written = self.writer.write(self.write_boxes(sample))
                    images = [Image.new("RGB", BLANK_SIZE) for _ in sample.images]
                    self.processor_call.settle(written, images, sample.source)
            if self.processor_call.is_settled:
                break

    def encode_untruncated(self, sample: Sample) -> Example:
        """Encode a row, however long it is.

        Raises:
            SampleError: The row cannot be encoded.
        """
        return self._encode(sample)[0]

    def _encode(self, sample: Sample, row: RowImages | None = None) -> tuple[Example, Written]:
        contents = self._read_images(sample) if row is None else row.read(lambda: self._read_images(sample))
        written = self.writer.write(self._place_boxes(sample, (stored_image(own, sample.source) for own in contents)))
        plain, image_keys = written.plain, self._image_keys(contents)

        def process() -> Processed:
            images = [self._decode(content, sample.source) for content in contents]
            tokens, inputs = self.processor_call(written, images, sample.source)
            return Processed(tokens, inputs, tuple(image.size for image in images))

        def process_once() -> Processed:
            return process() if row is None else row.process(plain, process, self._exchange)

        found = Processed(plain, {}, ())
        if contents:
            known = [written.text.encode(), plain.tobytes(), str(written.spans).encode()]
            found = self._recall(known, image_keys, process_once)
        positions, placeholders = expand_placeholders(plain, found.tokens, self.image_id, sample.source)
        example = Example(
            source=sample.source,
            tokens=found.tokens,
            supervised=self._supervise(found.tokens, placeholders, positions, written.learned),
            placeholders=placeholders,
            inputs=found.inputs,
            image_sizes=found.image_sizes,
            image_keys=image_keys,
        )
        return example, written

    def count_image_tokens(self, sample: Sample) -> tuple[int, ...]:
        """Let the processor say how many tokens stand for each image of a row; their sizes are what it is given.

        Raises:
            SampleError: It does not take the row.
        """
        written = self.writer.write(sample)
        tokens, _ = self.processor_call(written, list(sample.images), sample.source)
        return self.divide_placeholders(written.plain, tokens, sample.source)

    def divide_placeholders(self, plain: IntArray, tokens: IntArray, source: str) -> tuple[int, ...]:
        """Say how many of a row's tokens stand for each image, given its tokens with one for each.

        Raises:
            SampleError: The two do not belong together.
        """
        positions, _ = expand_placeholders(plain, tokens, self.image_id, source)
        bounds, images = np.append(positions, len(tokens)), np.flatnonzero(plain == self.image_id)
        return tuple((bounds[images + 1] - bounds[images]).tolist())

    def sketch(self, sample: Sample, n_tokens: Sequence[int]) -> Example:
        """Encode a row but for its images: what the processor would make of them is given as its number of tokens.

        Args:
            sample: The row, its boxes written.
            n_tokens: Of each image.

        Raises:
            SampleError: As of `__call__`.
        """
        written = self.writer.write(sample)
        is_image = written.plain == self.image_id
        lengths = np.ones(len(written.plain), dtype=np.int64)
        lengths[is_image] = n_tokens
        first = np.cumsum(lengths) - lengths
        tokens, placeholders = np.repeat(written.plain, lengths), np.repeat(is_image, lengths)
        supervised = self._supervise(tokens, placeholders, first, written.learned)
        example = Example(source=sample.source, tokens=tokens, supervised=supervised, placeholders=placeholders)
        return truncate(example, self.data)

    def _supervise(
        self, tokens: IntArray, placeholders: BoolArray, positions: IntArray, learned: BoolArray
    ) -> BoolArray:
        """Mark the tokens that are learned: of those at the positions, never an image's, nor the first of a row."""
        supervised = np.zeros(len(tokens), dtype=np.bool_)
        supervised[positions] = learned
        supervised[placeholders | self.tokens.is_marker(tokens)] = False
        supervised[0] = False
        return supervised

    def _recall(self, text: list[bytes], image_keys: tuple[str, ...], process: Callable[[], Processed]) -> Processed:
        """Give what a row's text and images become."""
        if self.memory is None or not self.preparation:
            return process()
        return self.memory.get_or_compute(digest([b"row", *text, *(key.encode() for key in image_keys)]), process)

    def _finish(self, example: Example) -> Example:
        return self._settle(truncate(example, self.data))

    def _settle(self, example: Example) -> Example:
        return example if self.memory is None else self.memory.materialize(example)

    def open_images(self, sample: Sample, n_images: int | None = None) -> list[Image.Image]:
        """Open a row's images, or its first ones, as the processor gets them.

        Raises:
            SampleError: One cannot be read.
        """
        contents = self._read_images(sample, n_images)
        return [self._decode(content, sample.source) for content in contents]

    def _read_images(self, sample: Sample, n_images: int | None = None) -> list[ImageContent]:
        return [read_image(image, sample.source, allow_urls=self.data.allow_urls) for image in sample.images[:n_images]]

    def _decode(self, content: ImageContent, source: str) -> Image.Image:
        return decode_image(content, source, self.resizer)

    @functools.cached_property
    def resizer(self) -> Resizer:
        """What becomes of the sizes of images."""
        budget = find_budget(self.processor) if self.family.format.takes_sizes else None
        return Resizer(self.data.image_resize_shape, self.max_pixels, budget)

    def write_boxes(self, sample: Sample) -> Sample:
        """Write a row's boxes and names into its texts, as the family writes them; of images headers are read.

        Raises:
            SampleError: The family has no way to write them, or they do not lie in the row's images.
        """
        stored = (look_at_image(image, sample.source, allow_urls=self.data.allow_urls) for image in sample.images)
        return self._place_boxes(sample, stored)

    def _place_boxes(self, sample: Sample, stored: Iterable[StoredImage]) -> Sample:
        if sample.objects is None:
            return sample
        return write_boxes(sample, sample.objects, stored, self.family.format.boxes, self.resizer)

    def _image_keys(self, contents: Sequence[ImageContent]) -> tuple[str, ...]:
        if not self.preparation:
            return ()
        return tuple(digest([self.preparation.encode(), content.digest.encode()]) for content in contents)

    def render(self, sample: Sample, *, add_generation_prompt: bool = False) -> str:
        """Render a conversation as the model reads it, one BOS included; images are one token each."""
        return self.writer.render(sample, add_generation_prompt=add_generation_prompt)

    def prompt(self, sample: Sample) -> str:
        """Write a question as mlx-vlm's generation gives it to the processor."""
        return self.writer.prompt(sample)

    def ask(self, question: Sample, answer: Turn) -> tuple[str, str]:
        """Write a question as `prompt` does, and what is to be generated for it; see `RowWriter.ask`."""
        return self.writer.ask(question, answer)

    def template_use(self) -> TemplateUse:
        """Say which chat template writes the rows, and how answers end.

        Raises:
            ModelError: The template renders no conversation, or nothing ends its answers.
        """
        return self.writer.template_use()

    @functools.cached_property
    def tokens(self) -> RowTokenizer:
        """What tokenizes the rows."""
        return RowTokenizer(
            processor=self.processor,
            tokenizer=self.tokenizer,
            family=self.family,
            image_token=self.image_token,
            image_id=self.image_id,
        )

    @functools.cached_property
    def writer(self) -> RowWriter:
        """What writes the rows as text."""
        conversations = Conversations(
            template=self.template,
            tokenizer=self.tokenizer,
            tokenize=self.tokens,
            image_token=self.image_token,
            stop_ids=self.stop_ids,
            learns_end=self.data.learn_end,
        )
        return RowWriter(
            family=self.family,
            data=self.data,
            tokens=self.tokens,
            conversations=conversations,
            template_origin=self.template_origin,
        )

    @functools.cached_property
    def processor_call(self) -> ProcessorCall:
        """What calls the processor."""
        return ProcessorCall(tokens=self.tokens)

    @functools.cached_property
    def _exchange(self) -> AnswerExchange:
        return AnswerExchange(writer=self.writer, processor_call=self.processor_call)
