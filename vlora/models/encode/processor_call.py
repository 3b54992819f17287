"""The call of a processor that gives the chat template's tokens: found by trying, once per model."""

import functools
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from PIL import Image

from ...data.masking import expand_placeholders
from ...errors import SampleError
from ...types import ImageSlot, IntArray, Sample, Turn
from ..foreign import foreign
from .processors import on_host, to_host, token_ids
from .tokens import RowTokenizer
from .writer import Written

Call = Callable[..., Mapping[str, Any]]

WAYS: tuple[Mapping[str, Any], ...] = ({"add_special_tokens": False}, {}, {"inference_mode": False})
"""Options that are tried. DeepSeek-OCR's processor removes the last token unless it is told not to."""

NO_INPUTS = ("input_ids", "attention_mask", "labels", "sft_format", "seq_lens")
"""What processors give beside the model's inputs."""

BLANK_SIZE = (224, 224)
"""Width and height of the image on which the processor's call is tried."""

BLANK_QUESTION = Sample(
    "a question on a blank image",
    (Turn("user", (ImageSlot(0), "What is it?")), Turn("assistant", ("It is blank.",))),
    (Image.new("RGB", BLANK_SIZE),),
)
"""A row to try it on where the rows have no image."""


@attrs.define(eq=False, kw_only=True)
class ProcessorCall:
    """Calls one model's processor; several threads may call at once.

    Attributes:
        tokens: The model's tokenizer, its family and its processor.
    """

    tokens: RowTokenizer
    _call: Call | None = attrs.field(default=None, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @property
    def is_settled(self) -> bool:
        """Whether it is known how the processor has to be called."""
        return self._call is not None or self.tokens.family.format.is_prefix_lm

    def __call__(self, written: Written, images: list[Image.Image], source: str) -> tuple[IntArray, dict[str, Any]]:
        """Process a row: give its tokens, and the model's inputs as host arrays.

        Raises:
            SampleError: The processor refuses the row.
        """
        prompt = written.text
        if self.tokens.family.format.is_prefix_lm:
            # The processor marks where the answer begins, if it is given apart.
            start, stop = written.spans[0]
            prompt, answer = self.tokens.without_additions(written.text[:start]), written.text[start:stop]
            suffix = answer.removesuffix(self.tokens.tokenizer.eos_token)
            call: Call = functools.partial(self.on_host, suffix=suffix)
        else:
            call = self._call or self.settle(written, images, source)
        with foreign(lambda error: SampleError(f"{source}: the processor refuses the row: {error}")):
            outputs = dict(call(text=prompt, images=images))
        inputs = {
            "pixel_values" if name == "images" else name: to_host(value)
            for name, value in outputs.items()
            if name not in NO_INPUTS and value is not None
        }
        return token_ids(outputs), inputs

    @functools.cached_property
    def on_host(self) -> Call:
        """The processor, which leaves its results on the host."""
        return on_host(self.tokens.processor)

    def settle(self, written: Written, images: list[Image.Image], source: str) -> Call:
        """Find how the processor has to be called, if it is not known yet.

        Args:
            written: A row that has an image.
            images: The row's, or others in their place.
            source: The row, for errors.

        Raises:
            SampleError: No call gives the row's tokens; another row may settle it.
        """
        with self._lock:
            if self._call is None:
                self._call = self._find(written, images, source)
            return self._call

    def _find(self, written: Written, images: list[Image.Image], source: str) -> Call:
        """Find how this processor has to be called so that it gives the template's ids, with one BOS.

        Some add a BOS to a text that has one, some take no `add_special_tokens`: each way is tried on the row.
        """
        family, problems = self.tokens.family, []
        if family.format.process is not None:
            return functools.partial(family.format.process, self.tokens.processor)
        for strips_bos, options in itertools.product((False, True), WAYS):
            call = functools.partial(self._call_as, strips_bos=strips_bos, options=options)
            try:
                with foreign(lambda error: SampleError(f"{source}: the processor refuses the row: {error}")):
                    tokens = token_ids(call(text=written.text, images=images))
                expand_placeholders(written.plain, tokens, self.tokens.image_id, source)
            except SampleError as error:
                problems.append(str(error))
            else:
                return call
        raise SampleError(problems[0])

    def _call_as(
        self, *, text: str, images: list[Image.Image], strips_bos: bool, options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        if strips_bos:
            text = text.removeprefix(self.tokens.tokenizer.bos_token or "")
        # A text, not a list of one: DeepSeek's processor takes one image per text of a list.
        return self.on_host(text=text, images=images, **options)
