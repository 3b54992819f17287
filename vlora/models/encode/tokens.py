"""Rows as tokens: how a tokenizer and a processor spell a text that has images, one token each."""

import functools
import itertools
import re
from typing import Any

import attrs
import numpy as np

from ...types import BoolArray, IntArray
from ..families.family import Family

MARKERS = (
    *("<|vision_start|>", "<|vision_end|>", "<|media_start|>", "<|media_content|>", "<|media_end|>"),
    *("<start_of_image>", "<end_of_image>", "<|begin_of_image|>", "<|end_of_image|>", "<|image>", "<image|>"),
)
"""Tokens that templates write around images and nowhere else."""


Span = tuple[int, int]


@attrs.define(eq=False, kw_only=True)
class RowTokenizer:
    """Tokenizes one model's rows.

    What depends on the tokenizer alone is asked of it once: some answers are new tables of its whole vocabulary, 0.2 s
    of the interpreter for 151,000 tokens.

    Attributes:
        processor: The model's processor.
        tokenizer: The processor's tokenizer.
        family: The family's description.
        image_token: The text that stands for an image in what the processor is given.
        image_id: The token that stands for one in what the model is given; negative if it is not of the vocabulary.
    """

    processor: Any
    tokenizer: Any
    family: Family
    image_token: str
    image_id: int

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts, images as one token each; nothing is added."""
        if self.image_id < 0:
            return [self._tokenize_around_images(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _tokenize_around_images(self, text: str) -> list[int]:
        """Tokenize what stands between images apart, as processors do whose images have no token in the vocabulary."""
        parts: list[list[int]] = self.tokenizer(text.split(self.image_token), add_special_tokens=False)["input_ids"]
        return list(itertools.chain(parts[0], *([self.image_id, *part] for part in parts[1:])))

    def behind_bos(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts whose BOS, if they have one, is the tokenizer's own addition.

        Some tokenizers begin a text with "▁" but not what follows a BOS within it.
        """
        bos = self.tokenizer.bos_token or ""
        opening = [[self.tokenizer.bos_token_id] if bos and text.startswith(bos) else [] for text in texts]
        bodies = self([text.removeprefix(bos) for text in texts])
        return [first + rest for first, rest in zip(opening, bodies, strict=True)]

    def with_one_bos(self, text: str, spans: list[Span]) -> tuple[str, list[Span]]:
        """Let the text begin with one BOS if the family has one, whether template or tokenizer writes it."""
        bos = self._bos
        if not bos or self.family.format.is_prefix_lm:
            return text, spans
        body = text
        while body.startswith(bos):
            body = body.removeprefix(bos)
        written = text.startswith(bos) or self.family.format.opens_with_eos or self._tokenizer_adds_bos
        shift = len(bos) * written - (len(text) - len(body))
        return (bos if written else "") + body, [(start + shift, end + shift) for start, end in spans]

    @property
    def _bos(self) -> str:
        """What a conversation begins with; empty if nothing."""
        bos: str = self.tokenizer.bos_token or (self.tokenizer.eos_token if self.family.format.opens_with_eos else "")
        return bos

    @functools.cached_property
    def _tokenizer_adds_bos(self) -> bool:
        ids = self.tokenizer("a")["input_ids"]
        return bool(ids) and ids[0] == self.tokenizer.bos_token_id

    def without_additions(self, prompt: str) -> str:
        """A prefix language model's prompt without what its processor adds: the BOS and the line's end."""
        return prompt.replace(self.tokenizer.bos_token, "", 1).removesuffix("\n")

    def spell(self, text: str) -> str:
        """Write images as their processor does, but as one token each."""
        spelled = text.replace(self.image_token, self._image_token_text)
        if not self.family.format.spaces_after_images:
            return spelled
        return re.sub(f"{re.escape(self._image_token_text)}(?=[^\\s<])", lambda found: f"{found[0]} ", spelled)

    def spell_spans(self, text: str, spans: list[Span]) -> list[Span]:
        """Say where spans of a text stand once its images are spelled."""
        spelled, length, last = {}, 0, 0
        for bound in sorted({bound for span in spans for bound in span}):
            piece, after = text[last:bound], text[bound : bound + 1]
            spelled[bound] = length + len(self.spell(piece))
            # A space behind an image depends on what follows it.
            length += len(self.spell(piece + after)) - len(after)
            last = bound
        return [(spelled[start], spelled[end]) for start, end in spans]

    @property
    def _image_token_text(self) -> str:
        if self.image_id < 0:
            return self.image_token
        text: str = self.tokenizer.convert_ids_to_tokens(self.image_id)
        # Gemma's processors put tokens and line breaks around an image, and line breaks join with those of the text.
        around = getattr(self.processor, "full_image_sequence", text)
        return re.sub(f"(?:{re.escape(text)})+", text, around)

    def is_marker(self, tokens: IntArray) -> BoolArray:
        """Mark the tokens around an image that only ever occur there."""
        return np.isin(tokens, self._markers)

    @functools.cached_property
    def added(self) -> frozenset[int] | None:
        """Tokens that are in no text but where they are meant; None if the tokenizer does not tell them."""
        find = getattr(self.tokenizer, "get_added_vocab", None)
        return None if find is None else frozenset(find().values())

    @functools.cached_property
    def _markers(self) -> list[int]:
        vocabulary = self.tokenizer.get_vocab()
        return [*(vocabulary[text] for text in MARKERS if text in vocabulary), self.image_id]
