"""What the answers of one row share: its images, and what the processor makes of them and of the question.

A processor puts tokens in the place of images and leaves the text's own; every row is checked for that. So what it
would make of a second answer to the same question is known once it has seen the first one. Whether a processor has
nothing else of an answer is tried once for each model.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
from PIL import Image

from ...data.truncate import is_per_token
from ...errors import SampleError
from ...features.processed import Processed
from ...types import IntArray, Turn
from .images.opening import ImageContent
from .processor_call import BLANK_QUESTION, BLANK_SIZE, ProcessorCall
from .writer import RowWriter


@attrs.define(eq=False)
class RowImages:
    """The images of a row whose answers are encoded one after the other: they are read and processed once."""

    _contents: list[ImageContent] | None = attrs.field(default=None, init=False)
    _plain: IntArray | None = attrs.field(default=None, init=False)
    _processed: Processed | None = attrs.field(default=None, init=False)

    def read(self, read: Callable[[], list[ImageContent]]) -> list[ImageContent]:
        """Give the images' contents; they are read for the first answer."""
        if self._contents is None:
            self._contents = read()
        return self._contents

    def process(
        self, plain: IntArray, process: Callable[[], Processed], exchange: Callable[..., Processed | None]
    ) -> Processed:
        """Give what the row becomes with an answer.

        Args:
            plain: i32[P], the tokens of question and answer, one for each image.
            process: Decodes the images and runs the processor.
            exchange: Takes the first answer's tokens, what the processor made of them, and `plain`; gives None where
                the processor has to be run.
        """
        found = None if self._processed is None else exchange(self._plain, self._processed, plain)
        if found is not None:
            return found
        self._plain, self._processed = plain, process()
        return self._processed


@attrs.define(eq=False, kw_only=True)
class AnswerExchange:
    """Gives what one model's processor makes of a row with another answer; None where it has to be asked.

    Attributes:
        writer: Writes the rows.
        processor_call: Calls the processor.
    """

    writer: RowWriter
    processor_call: ProcessorCall

    def __call__(self, plain: IntArray, processed: Processed, other: IntArray) -> Processed | None:
        """Do it; arguments as of `exchange_answer`."""
        tokens = self.processor_call.tokens
        if tokens.added is None or not self._follows:
            return None
        return exchange_answer(plain, processed, other, tokens.image_id, tokens.added)

    @functools.cached_property
    def _follows(self) -> bool:
        """Whether what the processor makes of another answer follows from the first one: tried on a blank image."""
        image, tokens = Image.new("RGB", BLANK_SIZE), self.processor_call.tokens
        question, made = BLANK_QUESTION.turns[:-1], []
        with contextlib.suppress(SampleError):
            for answer in ("It is blank.", "There are two hats on it."):
                turns = (*question, Turn("assistant", (answer,)))
                written = self.writer.write(attrs.evolve(BLANK_QUESTION, turns=turns))
                processed = Processed(*self.processor_call(written, [image], BLANK_QUESTION.source), (BLANK_SIZE,))
                made.append((written.plain, processed))
            (plain, first), (other, second) = made
            found = exchange_answer(plain, first, other, tokens.image_id, tokens.added or frozenset())
            return found is not None and is_same(found, second)
        return False


def exchange_answer(
    plain: IntArray, processed: Processed, other: IntArray, image_id: int, marks: frozenset[int]
) -> Processed | None:
    """Give what the processor makes of a row with another answer.

    Args:
        plain: i32[P], the row's tokens, one for each image.
        processed: What the processor made of them.
        other: i32[Q], the row's tokens with the other answer.
        image_id: The token that stands for an image.
        marks: Tokens that may mean something to the processor. An answer that has others of them than the row's own
            answer is left to the processor.

    Returns:
        The same arrays but for those that have a number for each token; None where they do not follow.
    """
    expanded, inputs = processed.tokens, processed.inputs
    shorter = min(len(plain), len(other))
    differs = plain[:shorter] != other[:shorter]
    n_shared = int(differs.argmax()) if differs.any() else shorter
    answer, others = plain[n_shared:], other[n_shared:]
    n_kept = len(expanded) - len(answer)
    is_new = not marks.isdisjoint({*others.tolist()} - {*answer.tolist()})
    if is_new or image_id in answer or image_id in others or not np.array_equal(expanded[n_kept:], answer):
        return None
    # Deferred inputs are computed when they are read, and not for a comparison.
    if not isinstance(inputs, dict) or not len(answer):
        return None
    found = {}
    for name, value in inputs.items():
        made = _exchange_numbers(value, len(expanded), n_kept, len(others))
        if made is None:
            return None
        found[name] = made
    return Processed(np.concatenate([expanded[:n_kept], others]), found, processed.image_sizes)


def _exchange_numbers(value: Any, n_tokens: int, n_kept: int, n_others: int) -> Any:
    """Let an input that has a number for each token have them for another answer's; None where they do not follow."""
    if is_per_token(value, n_tokens):
        last = value[:, -1:]
        if not (value[:, n_kept:] == last).all():
            return None
        return np.concatenate([value[:, :n_kept], np.repeat(last, n_others, axis=1)], axis=1)
    return None if _has_length(value, n_tokens) else value


def _has_length(value: Any, length: int) -> bool:
    """Whether an array has as many numbers along a side: they may be one for each token."""
    if isinstance(value, (list, tuple)):
        return any(_has_length(own, length) for own in value)
    return length in np.shape(value) if hasattr(value, "shape") else False


def is_same(one: Any, other: Any) -> bool:
    """Whether two outputs of a processor, or records of them, are equal to the bit."""
    if isinstance(one, Processed):
        return all(is_same(getattr(one, field.name), getattr(other, field.name)) for field in attrs.fields(Processed))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return bool(one == other)
