"""Answers a batch of prompts token by token with the forward that is trained.

Prompts are embedded with room for their answers, so that every place has the same position, mask and marks as in
training. Families differ in what is read again for each token; see `Reading`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx_vlm.models.cache import make_prompt_cache

from ...data.collate import collate
from ...ops.buckets import bucket_length
from ...types import Batch, Example, IntArray
from ..backbone.backbone import MlxVlmBackbone
from ..backbone.embed import forget_last_batch
from ..families.family import Reading
from ..forward.lm_inputs import LOGIT_PLACES, Layouts, LMInputs
from .fields import cut_fields, pick_fields
from .kept_keys import KeptKeys
from .words import embed_words

HELD_POSITIONS = "_position_ids"
"""Attributes in which models with three-dimensional positions keep those of the last prompt."""

Choose = Callable[[mx.array, int], IntArray]
"""Chooses the next token of each row: (f[B, V], number of the answer's token) to i32[B]."""


@attrs.frozen(eq=False)
class Prompt:
    """A question as the model reads it.

    Attributes:
        example: The question, followed by the row's own answer.
        length: Tokens of the question.
    """

    example: Example
    length: int


def with_room(prompt: Prompt, room: int) -> Example:
    """Replace a row's own answer by places for an answer.

    Args:
        prompt: The question.
        room: Number of places.
    """
    example, length = prompt.example, prompt.length
    n_tokens = len(example.tokens)
    # These places get the inputs of the first token of the row's own answer.
    index = np.concatenate([np.arange(length), np.full(room, length)])
    inputs = {
        name: value[:, index] if _is_per_token(value, n_tokens) else value for name, value in example.inputs.items()
    }
    return attrs.evolve(
        example,
        tokens=example.tokens[index],
        supervised=np.arange(len(index)) >= length,
        placeholders=example.placeholders[index],
        inputs=inputs,
        columns={},
    )


def _is_per_token(value: Any, n_tokens: int) -> bool:
    """Whether an array has one value per token; packed pixels, which are integers too, have more than one row."""
    return isinstance(value, np.ndarray) and value.shape[:2] == (1, n_tokens) and value.dtype.kind in "iub"


def decode(
    backbone: MlxVlmBackbone,
    prompts: Sequence[Prompt],
    room: int,
    choose: Choose,
    stop_ids: Sequence[int],
    reading: Reading | None = None,
    should_stop: Callable[[], bool] = bool,
) -> list[list[int]]:
    """Answer some questions together.

    Args:
        backbone: The model, within `generating`.
        prompts: The questions; of equal length where the family's `Reading` is "equal".
        room: Longest answer in tokens.
        choose: Chooses each next token.
        stop_ids: Tokens that end an answer.
        reading: Overrides the family's `Reading`.
        should_stop: Called before each token; True ends the answers as they are.

    Returns:
        The tokens of each answer, including the one that ends it.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    is_over = np.zeros(len(prompts), dtype=np.bool_)
    logits = embed_prompts(backbone, prompts, room, reading or backbone.family.forward.reading)
    found = logits.prompts()
    for number in range(room):
        tokens = choose(found, number)
        for row, token in enumerate(tokens.tolist()):
            if not is_over[row]:
                answers[row].append(token)
                is_over[row] = token in stop_ids
        if is_over.all() or number == room - 1 or should_stop():
            break
        found = logits.after(tokens, number)
    return answers


def stream(
    backbone: MlxVlmBackbone,
    prompt: Prompt,
    room: int,
    choose: Choose,
    stop_ids: Sequence[int],
) -> Iterator[int]:
    """Answer one question, as `decode` does.

    Args:
        backbone: The model, within `generating`.
        prompt: The question.
        room: Tokens that the answer has at most.
        choose: Chooses each next token.
        stop_ids: Tokens behind which the answer ends.

    Yields:
        Each token as it is chosen, that at which the answer ends included.
    """
    logits = embed_prompts(backbone, [prompt], room, backbone.family.forward.reading)
    found = logits.prompts()
    for number in range(room):
        tokens = choose(found, number)
        yield int(tokens[0])
        if int(tokens[0]) in stop_ids or number == room - 1:
            return
        found = logits.after(tokens, number)


@attrs.define(eq=False)
class Rows:
    """A batch of questions with room for their answers, as the language model reads it.

    Attributes:
        backbone: The model.
        batch: The batch.
        fields: The language model's inputs.
        ends: i32[B], the last place of each question among the batch's tokens.
        places: i32[B], the same among the places that the language model sees.
        room: Longest answer in tokens.
        caches: What the layers keep of the tokens that were read, if anything.
    """

    backbone: MlxVlmBackbone
    batch: Batch
    fields: LMInputs
    ends: IntArray
    places: IntArray
    room: int
    caches: list[Any] = attrs.field(factory=list, init=False)

    @property
    def layouts(self) -> Layouts:
        """The layouts of the fields."""
        return self.backbone.family.forward.layouts

    def run(self, tokens: mx.array, fields: LMInputs, positions: IntArray) -> mx.array:
        """Run the language model under its corrections, its head at flat places of the tokens."""
        with self.backbone.overrides():
            return self.backbone.logits(tokens, fields, {}, mx.array(positions.astype(np.int32)))

    def read(self, length: int, n_tokens: int, ends: IntArray, **others: Any) -> mx.array:
        """Read the rows up to some place; the logits at the ends."""
        fields = {**cut_fields(self.fields, self.layouts, length, n_tokens), **others}
        return self.run(self.batch.tokens[:, :n_tokens], fields, np.arange(len(ends), dtype=np.int32) * n_tokens + ends)

    def words(self, tokens: IntArray) -> LMInputs:
        """Embed the next token of each row: name to f[B, 1, ...]."""
        return embed_words(self.backbone.module, self.backbone.family, tokens)


class Anew(Rows):
    """Reads the whole rows again for every token."""

    def prompts(self) -> mx.array:
        """Read the questions."""
        return self._read(0)

    def after(self, tokens: IntArray, number: int) -> mx.array:
        """Write the answers' tokens of this number at their places, and read the rows again."""
        self.batch = self.batch._replace(
            tokens=_write(self.batch.tokens, self.ends + 1 + number, mx.array(tokens)[:, None])
        )
        for name, word in self.words(tokens).items():
            self.fields[name] = _write(self.fields[name], self.places + 1 + number, word)
        return self._read(number + 1)

    def _read(self, number: int) -> mx.array:
        # As in training: positions of the previous, shorter batch must not be left.
        forget_last_batch(self.backbone.module)
        length = _rounded(self.places + number, self.fields)
        n_tokens = min(bucket_length(int(self.ends.max()) + 1 + number), self.batch.tokens.shape[1])
        return self.read(length, n_tokens, self.ends + number)


class Kept(Rows):
    """Reads each token once, and keeps keys and values at the places that they have in training."""

    def prompts(self) -> mx.array:
        """Read the questions."""
        length = _length(self.fields, self.batch)
        self.caches = [KeptKeys(length) for _ in make_prompt_cache(self.backbone.language_model)]
        n_tokens = min(bucket_length(int(self.ends.max()) + 1), self.batch.tokens.shape[1])
        return self.read(_rounded(self.places, self.fields), n_tokens, self.ends, cache=self.caches)

    def after(self, tokens: IntArray, number: int) -> mx.array:
        """Read the answers' tokens of this number."""
        places, reach = mx.array(self.places + 1 + number), int(self.places.max()) + 2 + number
        for cache in self.caches:
            cache.places, cache.reach = places, reach
        fields = {**pick_fields(self.fields, self.layouts, places, reach), **self.words(tokens), "cache": self.caches}
        return self.run(mx.array(tokens)[:, None], fields, np.arange(len(tokens), dtype=np.int32))


class Equal(Rows):
    """Reads each token once with the model's own caches, for questions of equal length."""

    def prompts(self) -> mx.array:
        """Read the questions."""
        self.caches = make_prompt_cache(self.backbone.language_model)
        return self.read(int(self.places[0]) + 1, int(self.ends[0]) + 1, self.ends, cache=self.caches)

    def after(self, tokens: IntArray, number: int) -> mx.array:
        """Read the answers' tokens of this number."""
        places = self.places + 1 + number
        picked = pick_fields(self.fields, self.layouts, mx.array(places), int(places[0]) + 1)
        fields = {**picked, **self.words(tokens), "cache": self.caches}
        return self.run(mx.array(tokens)[:, None], fields, np.arange(len(tokens), dtype=np.int32))


Reader = Anew | Kept | Equal

READERS: Mapping[Reading, type[Reader]] = {"anew": Anew, "kept": Kept, "equal": Equal}


def embed_prompts(backbone: MlxVlmBackbone, prompts: Sequence[Prompt], room: int, reading: Reading) -> Reader:
    """Embed questions, and return their reader."""
    batch = collate([with_room(prompt, room) for prompt in prompts])
    differentiable, auxiliary = backbone.embed_rows(batch)
    return make_reader(backbone, batch, {**differentiable, **auxiliary}, prompts, room, reading)


def make_reader(
    backbone: MlxVlmBackbone,
    batch: Batch,
    fields: LMInputs,
    prompts: Sequence[Prompt],
    room: int,
    reading: Reading,
) -> Reader:
    """Return the reader of embedded questions, without synchronizing; safe to trace.

    Args:
        backbone: The model.
        batch: The questions with room for their answers.
        fields: The result of `backbone.embed` for them.
        prompts: The questions.
        room: Longest answer in tokens.
        reading: How growing answers are read.
    """
    counts_itself = reading == "anew" or not hasattr(backbone.language_model, HELD_POSITIONS)
    if "position_ids" not in fields and not counts_itself:
        # Rows of text: the model would continue from positions that it keeps itself.
        n_rows, length = batch.tokens.shape
        fields = {**fields, "position_ids": mx.broadcast_to(mx.arange(length), (3, n_rows, length))}
    ends = np.array([prompt.length - 1 for prompt in prompts], dtype=np.int32)
    places = ends
    if LOGIT_PLACES in fields:
        places = np.array(fields[LOGIT_PLACES])[np.arange(len(ends)), ends].astype(np.int32)
    return READERS[reading](backbone, batch, fields, ends, places, room)


def _length(fields: LMInputs, batch: Batch) -> int:
    embeds = fields.get("inputs_embeds")
    return int(batch.tokens.shape[1] if embeds is None else embeds.shape[1])


def _rounded(places: IntArray, fields: LMInputs) -> int:
    wanted = bucket_length(int(places.max()) + 1)
    embeds = fields.get("inputs_embeds")
    return wanted if embeds is None else min(wanted, int(embeds.shape[1]))


def _write(array: mx.array, places: IntArray, values: mx.array) -> mx.array:
    """Write one value of each row at its place along the second axis."""
    here = mx.arange(array.shape[1])[None] == mx.array(places)[:, None]
    here = here.reshape(*here.shape, *(1,) * (array.ndim - 2))
    return mx.where(here, values.astype(array.dtype), array)
