"""The questions of rows as in training: everything before the first supervised token of the answer."""

import functools
import os
from typing import Any

import attrs
import numpy as np

from ...data.readers.inline_images import is_inline
from ...errors import LongRowError, SampleError, UnwantedAnswerError
from ...types import ImageSlot, Sample, Turn
from ..encode.encoder import Encoder
from ..encode.images.headers import look_at_image
from .decode import Prompt

UNKNOWN = "?"
"""Stands for the answer of a question without one."""


@attrs.frozen(eq=False, kw_only=True)
class Question:
    """The first question of a row.

    Attributes:
        source: The row's source, as in `Sample`.
        prompt: The question as the model reads it.
        text: The question as text.
        expected: The row's answer, stripped.
        images: The images that the question shows, by path or address where the row names them.
        image_sizes: (width, height) of each image as stored.
    """

    source: str
    prompt: Prompt
    text: str
    expected: str
    images: tuple[str, ...]
    image_sizes: tuple[tuple[int, int], ...]


@attrs.frozen(eq=False)
class Questions:
    """Makes the questions of a model's rows.

    Attributes:
        encoder: The encoder of training rows.
    """

    encoder: Encoder

    def __call__(self, sample: Sample) -> Question:
        """Encode the first question of a sample; later turns are dropped.

        Raises:
            LongRowError: It leaves no room for an answer within `data.max_seq_length`: no such row is learned from, and
                memory was not planned for it.
            UnwantedAnswerError: Its answer is marked as unwanted.
            SampleError: It has no question, or it or one of its images cannot be read.
        """
        if sample.is_wanted is False:
            msg = f"{sample.source}: its answer is marked as unwanted, which leaves open what a right one is"
            raise UnwantedAnswerError(msg)
        found = self._encode(sample, *split_question(self._masking.write_boxes(sample)))
        n_tokens, most = found.prompt.length, self.encoder.data.max_seq_length
        if n_tokens >= most:
            msg = (
                f"{sample.source}: its question of {n_tokens:,} tokens leaves no room for an answer within "
                f"data.max_seq_length={most}; raise it"
            )
            raise LongRowError(msg)
        return found

    def last(self, sample: Sample) -> Question:
        """Encode a conversation up to its last turn, which is to be answered; earlier answers are only context.

        Raises:
            SampleError: It cannot be written, or one of its images cannot be read.
        """
        turns = tuple(attrs.evolve(turn, learned=False) for turn in sample.turns)
        return self._encode(sample, attrs.evolve(sample, turns=turns), Turn("assistant", (UNKNOWN,)))

    def _encode(self, sample: Sample, asked: Sample, answer: Turn) -> Question:
        encoder = self._masking
        example, text, expected = encoder.encode_question(attrs.evolve(asked, turns=(*asked.turns, answer)))
        length = int(np.argmax(example.supervised))
        if not example.supervised[length]:
            msg = f"{sample.source}: no token of the answer is learned, so that nothing says where it begins"
            raise SampleError(msg)
        return Question(
            source=sample.source,
            prompt=Prompt(example, length),
            text=text,
            expected=expected.strip(),
            images=tuple(_name_image(image, place, sample.source) for place, image in enumerate(asked.images)),
            image_sizes=tuple(self._size(image, sample.source) for image in asked.images),
        )

    @functools.cached_property
    def _masking(self) -> Encoder:
        """The encoder with supervision of answers only."""
        if self.encoder.data.train_on_completions:
            return self.encoder
        return attrs.evolve(self.encoder, data=attrs.evolve(self.encoder.data, train_on_completions=True))

    def _size(self, image: Any, source: str) -> tuple[int, int]:
        width, height = look_at_image(image, source, allow_urls=self.encoder.data.allow_urls).size
        return int(width), int(height)


def split_question(sample: Sample) -> tuple[Sample, Turn]:
    """Split a conversation into its first question and the supervised answer; the rest is dropped.

    Raises:
        SampleError: There is no question.
    """
    first = next((place for place, turn in enumerate(sample.turns) if turn.role == "assistant"), len(sample.turns))
    if not first or not sample.turns:
        msg = f"{sample.source}: there is no turn to answer; give one of the role 'user'"
        raise SampleError(msg)
    # The template shows where an answer begins by writing one.
    answer = sample.turns[first] if first < len(sample.turns) else Turn("assistant", (UNKNOWN,))
    turns = sample.turns[:first]
    n_images = sum(isinstance(part, ImageSlot) for turn in turns for part in turn.parts)
    return attrs.evolve(sample, turns=turns, images=sample.images[:n_images]), attrs.evolve(answer, learned=True)


def _name_image(image: Any, place: int, source: str) -> str:
    name = getattr(image, "image", image)
    if isinstance(name, (str, os.PathLike)) and not is_inline(text := os.fspath(name)):
        return text
    return f"image {place + 1} of {source}"
