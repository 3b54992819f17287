"""From a `Sample` to an `Example` where an encoder reads and a decoder writes: a task on one image, and its answer.

There is no conversation and no chat template. The decoder begins with a token of its own, as transformers shifts
labels to the right (Florence-2), or with the task itself (Nemotron-Parse).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from ...data.truncate import truncate
from ...errors import SampleError
from ...facts import TemplateUse
from ...features.processed import Processed
from ...types import Example, ImageSlot, IntArray, Sample
from ..foreign import foreign
from ..forward.lm_inputs import PROMPT
from .encoder import Encoder
from .processors import to_host, token_ids
from .row_images import RowImages

DECODER_START = 2
"""What mlx-vlm begins with where a configuration does not say (florence2.py:327, nemotron_parse/config.py:48)."""


@attrs.define(eq=False)
class PairEncoder(Encoder):
    """Encodes a family of encoder-decoders.

    Attributes:
        decoder_start: The token with which the decoder begins.
    """

    decoder_start: int = attrs.field(default=DECODER_START, kw_only=True)

    def __call__(self, sample: Sample) -> Example:
        """Encode a row; `tokens` are the decoder's.

        Raises:
            SampleError: The row is no task on one image with an answer, or cannot be learned from.
        """
        return self._encode_pair(sample, RowImages())

    def encode_answers(self, samples: Sequence[Sample]) -> tuple[Example, ...]:
        """Encode the answers of one row: the task and its image are processed once.

        Raises:
            SampleError: As of `__call__`.
        """
        images = RowImages()
        return tuple(self._encode_pair(sample, images) for sample in samples)

    def _encode_pair(self, sample: Sample, row: RowImages) -> Example:
        sample = self.write_boxes(sample)
        task = self._task(sample, ["user", "assistant"])
        contents = row.read(lambda: self._read_images(sample))
        image_keys = self._image_keys(contents)

        def process() -> Processed:
            images = [self._decode(content, sample.source) for content in contents]
            inputs = self._read(task, images, sample.source)
            return Processed(np.zeros(0, dtype=np.int32), inputs, tuple(image.size for image in images))

        ids = self._ids(task)

        def process_once() -> Processed:
            return row.process(np.asarray(ids, dtype=np.int32), process, _of_same_task)

        found = self._recall([task.encode(), str(ids).encode()], image_keys, process_once)
        example = self._write_pair(sample, task)
        example = attrs.evolve(example, image_sizes=found.image_sizes, image_keys=image_keys)
        return self._settle(attrs.evolve(truncate(example, self.data), inputs=found.inputs))

    def prepare(self, first_samples: Iterable[Sample]) -> None:
        """Do nothing: a task has no style, and the processor's call is known."""

    def sketch(self, sample: Sample, n_tokens: Sequence[int]) -> Example:  # noqa: ARG002 - no token stands for an image
        """Encode a row but for its image.

        Raises:
            SampleError: As of `__call__`.
        """
        return truncate(self._write_pair(sample, self._task(sample, ["user", "assistant"])), self.data)

    def _write_pair(self, sample: Sample, task: str) -> Example:
        """Write the decoder's tokens."""
        answer = sample.turns[-1].text
        prompt = self._ids(task) if self.family.format.is_prompted_decoder else [self.decoder_start]
        written = (
            self._ids(answer) if self.family.format.is_prompted_decoder else list(self.tokenizer(answer)["input_ids"])
        )
        if written[-1:] != [self.tokenizer.eos_token_id]:
            written = [*written, self.tokenizer.eos_token_id]
        tokens = np.asarray([*prompt, *written], dtype=np.int32)
        supervised = np.ones(len(tokens), dtype=np.bool_)
        supervised[: len(prompt) if self.data.train_on_completions else 1] = False
        placeholders = np.zeros(len(tokens), dtype=np.bool_)
        return Example(source=sample.source, tokens=tokens, supervised=supervised, placeholders=placeholders)

    def template_use(self) -> TemplateUse:
        """Say that no template writes the rows."""
        return self.template_origin

    def prompt(self, sample: Sample) -> str:
        """Write a question as mlx-vlm's generation gives it to the processor."""
        return self._task(sample, ["user"])

    def _task(self, sample: Sample, expected: list[str]) -> str:
        fits = [turn.role for turn in sample.turns] == expected
        n_images = sum(isinstance(part, ImageSlot) for part in sample.turns[0].parts) if sample.turns else 0
        if not fits or n_images != 1 or len(sample.images) != 1:
            roles = ", ".join(turn.role for turn in sample.turns)
            msg = (
                f"{sample.source}: found turns of {roles or 'no role'} and {len(sample.images)} images; "
                "this model reads one task on one image and writes one answer"
            )
            raise SampleError(msg)
        if sample.tools or any(turn.thought is not None or turn.calls or not turn.learned for turn in sample.turns):
            msg = (
                f"{sample.source}: the row has tools, a thought or a mark not to be learned; this model reads one task "
                "and learns the one answer to it"
            )
            raise SampleError(msg)
        return sample.turns[0].text.strip()

    def _read(self, task: str, images: list[Any], source: str) -> dict[str, Any]:
        with foreign(lambda error: SampleError(f"{source}: the processor refuses the row: {error}")):
            outputs: Mapping[str, Any] = self.processor_call.on_host(text=task, images=images)
        inputs = {
            name: to_host(value) for name, value in outputs.items() if name not in ("input_ids", "attention_mask")
        }
        if self.family.format.is_prompted_decoder:
            return inputs
        return {**inputs, PROMPT: token_ids(outputs)[None]}

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _of_same_task(task: IntArray, processed: Processed, other: IntArray) -> Processed | None:
    """Give what the processor made of a task if it is the same one: of answers it sees nothing."""
    return processed if np.array_equal(task, other) else None
