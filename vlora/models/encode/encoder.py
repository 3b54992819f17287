"""From a `Sample` to an `Example`: the chat template, the processor, the masks.

The template decides the text and the processor decides the image tokens; nothing of either is imitated here.
How a template wants its messages, and how a processor wants its text, is found out by trying, once per model.
"""

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from PIL import Image

from ...data.masking import expand_placeholders, mask_completions
from ...errors import LongRowError, ModelError, SampleError
from ...features.cache import digest
from ...features.processed import Processed, ProcessedCache
from ...recipe.schema import DataSection
from ...types import BoolArray, Cut, Example, ImageSlot, IntArray, Sample, Turn
from ..families.registry import Family
from ..foreign import foreign
from .fingerprint import preparation_fingerprint
from .images.boxes import write_boxes
from .images.opening import ImageContent, decode_image, look_at_image, read_image, stored_image
from .images.resizing import Resizer, find_budget, with_budget
from .processors import on_host, settle_tokenizer, to_host, token_ids
from .template.conversation import Conversations
from .template.expressing import refuse_unexpressed
from .template.named import PLAIN, find_template
from .template.stops import find_stop_ids

MARKERS = (
    *("<|vision_start|>", "<|vision_end|>", "<|media_start|>", "<|media_content|>", "<|media_end|>"),
    *("<start_of_image>", "<end_of_image>", "<|begin_of_image|>", "<|end_of_image|>", "<|image>", "<image|>"),
)
"""Tokens that templates write around images and nowhere else."""


@attrs.frozen(eq=False, kw_only=True)
class Written:
    """A row as text and its tokens.

    Attributes:
        text: What the processor is given; an image is one token.
        spans: Where its answers stand, in characters; none if nobody asks.
        plain: i32[P], its tokens.
        learned: bool[P], those that are learned, as far as they are text.
    """

    text: str
    spans: list[tuple[int, int]]
    plain: IntArray
    learned: BoolArray


@attrs.define(eq=False)
class Encoder:
    """Encodes one family's rows. Make it with `make_encoder`; call it with a `Sample`.

    What depends on the tokenizer alone is asked of it once: some answers are new tables of its whole vocabulary, 0.2 s
    of the interpreter for 151,000 tokens.

    Attributes:
        processor: The model's processor.
        tokenizer: The processor's tokenizer.
        family: The family's description.
        template: The chat template; empty where no conversation is written.
        image_token: The text that stands for an image in what the processor is given.
        image_id: The token that stands for one in what the model is given; negative if it is not of the vocabulary.
        data: The recipe's section.
        template_origin: Whose the chat template is, in words.
        stop_ids: The tokens at which generation ends.
        max_pixels: What images are scaled down to before the processor; None where it scales them itself.
        preparation: Stands for all that decides what an image becomes before the tower; in the keys of images.
        memory: Remembers rows whose images need not be looked at again; None to look at all.
    """

    processor: Any
    tokenizer: Any
    family: Family
    template: str
    image_token: str
    image_id: int
    data: DataSection
    template_origin: str = ""
    stop_ids: tuple[int, ...] = ()
    max_pixels: int | None = None
    preparation: str = ""
    memory: ProcessedCache | None = None
    _call: Callable[..., Mapping[str, Any]] | None = attrs.field(default=None, init=False)

    def __call__(self, sample: Sample) -> Example:
        """Encode a row; the processor runs once, or not at all if the row is remembered.

        Raises:
            SampleError: The row cannot be learned from; the message begins with its source.
        """
        return self._settle(cut(self.encode_untruncated(sample), self.data))

    def encode_untruncated(self, sample: Sample) -> Example:
        """Encode a row, however long it is.

        Raises:
            SampleError: The row cannot be encoded.
        """
        contents = self._read_images(sample)
        stored = (stored_image(content, sample.source) for content in contents)
        written = self.write(write_boxes(sample, stored, self.family.boxes, self.resizer))
        plain, image_keys = written.plain, self._image_keys(contents)

        def process() -> Processed:
            images = [self._decode(content, sample.source) for content in contents]
            tokens, inputs = self._process(written.text, images, plain, written.spans, sample.source)
            return Processed(tokens, inputs, tuple(image.size for image in images))

        found = Processed(plain, {}, ())
        if contents:
            known = [written.text.encode(), plain.tobytes(), str(written.spans).encode()]
            found = self._recall(known, image_keys, process)
        positions, placeholders = expand_placeholders(plain, found.tokens, self.image_id, sample.source)
        return Example(
            source=sample.source,
            tokens=found.tokens,
            supervised=self._supervise(found.tokens, placeholders, positions, written.learned),
            placeholders=placeholders,
            inputs=found.inputs,
            image_sizes=found.image_sizes,
            image_keys=image_keys,
        )

    def write(self, sample: Sample) -> Written:
        """Write a row whose boxes are written as text: what its processor is given, its tokens, and what is learned.

        Raises:
            SampleError: The row cannot be written.
        """
        refuse_unexpressed(sample, self._conversations.style)
        if self.family.is_prefix_lm and not sample.images:
            msg = f"{sample.source}: the row has no image; this model reads one in every row"
            raise SampleError(msg)
        text, spans = self._render(self._conversations.prepare(sample))
        if text.count(self.image_token) != len(sample.images):
            msg = (
                f"{sample.source}: the chat template writes {text.count(self.image_token)} places for "
                f"{len(sample.images)} images; does the text hold {self.image_token!r} itself?"
            )
            raise SampleError(msg)
        tokenize = self._tokenize if text.startswith(self.tokenizer.bos_token or "") else self._tokenize_behind_bos
        text, spans = self._with_one_bos(text, spans)
        marked = self._learned_spans(sample, spans)
        plain, in_spans = mask_completions(self._spell(text), self._spell_spans(text, marked), tokenize, sample.source)
        learned = in_spans if self.data.train_on_completions else ~in_spans
        if self._begins_at_id and self.data.train_on_completions:
            learned = self._after_assistant_id(plain, sample.source)
        return Written(text=text, spans=spans, plain=plain, learned=learned)

    def count_image_tokens(self, sample: Sample) -> tuple[int, ...]:
        """Let the processor say how many tokens stand for each image of a row; their sizes are what it is given.

        Raises:
            SampleError: It does not take the row.
        """
        written = self.write(sample)
        plain = written.plain
        tokens, _ = self._process(written.text, list(sample.images), plain, written.spans, sample.source)
        positions, _ = expand_placeholders(plain, tokens, self.image_id, sample.source)
        bounds, places = np.append(positions, len(tokens)), np.flatnonzero(plain == self.image_id)
        return tuple((bounds[places + 1] - bounds[places]).tolist())

    def sketch(self, sample: Sample, n_tokens: Sequence[int]) -> Example:
        """Encode a row but for its images: what the processor would make of them is given as its number of tokens.

        Args:
            sample: The row, its boxes written.
            n_tokens: Of each image.

        Raises:
            SampleError: As of `__call__`.
        """
        written = self.write(sample)
        is_image = written.plain == self.image_id
        lengths = np.ones(len(written.plain), dtype=np.int64)
        lengths[is_image] = n_tokens
        first = np.cumsum(lengths) - lengths
        tokens, placeholders = np.repeat(written.plain, lengths), np.repeat(is_image, lengths)
        supervised = self._supervise(tokens, placeholders, first, written.learned)
        example = Example(source=sample.source, tokens=tokens, supervised=supervised, placeholders=placeholders)
        return cut(example, self.data)

    def _supervise(
        self, tokens: IntArray, placeholders: BoolArray, positions: IntArray, learned: BoolArray
    ) -> BoolArray:
        """Mark the tokens that are learned: of those at the positions, never an image's, nor the first of a row."""
        supervised = np.zeros(len(tokens), dtype=np.bool_)
        supervised[positions] = learned
        supervised[placeholders | self._is_marker(tokens)] = False
        supervised[0] = False
        return supervised

    def _recall(self, text: list[bytes], image_keys: tuple[str, ...], process: Callable[[], Processed]) -> Processed:
        """Give what a row's text and images become."""
        if self.memory is None:
            return process()
        return self.memory.get_or_compute(digest([b"row", *text, *(key.encode() for key in image_keys)]), process)

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
        budget = find_budget(self.processor) if self.family.takes_sizes else None
        return Resizer(self.data.image_resize_shape, self.max_pixels, budget)

    def write_boxes(self, sample: Sample) -> Sample:
        """Write a row's boxes and names into its texts, as the family writes them; of images headers are read.

        Raises:
            SampleError: The family has no way to write them, or they do not lie in the row's images.
        """
        stored = (look_at_image(image, sample.source, allow_urls=self.data.allow_urls) for image in sample.images)
        return write_boxes(sample, stored, self.family.boxes, self.resizer)

    def _image_keys(self, contents: Sequence[ImageContent]) -> tuple[str, ...]:
        return tuple(digest([self.preparation.encode(), content.digest.encode()]) for content in contents)

    def render(self, sample: Sample, *, add_generation_prompt: bool = False) -> str:
        """Render a conversation as the model reads it, one BOS included; images are one token each."""
        sample = self._conversations.prepare(sample)
        if add_generation_prompt:
            text = self._conversations.ask(sample)
        elif self._conversations.answers.is_plain(sample):
            text = self._conversations.write(sample)
        else:
            text = self._render(sample)[0]
        return self._with_one_bos(text, [])[0]

    def prompt(self, sample: Sample) -> str:
        """Write a question as mlx-vlm's generation gives it to the processor."""
        if self.family.process is not None:
            return sample.turns[-1].text
        text = self.render(sample, add_generation_prompt=True)
        return self._bare(text) if self.family.is_prefix_lm else text

    def ask(self, question: Sample, answer: Turn) -> tuple[str, str]:
        """Write a question as `prompt` does, and what is to be generated for it.

        Args:
            question: A conversation that ends with a question.
            answer: The answer that a row has to it. The prompt is the one behind which that answer is learned; whether
                it asks for a thought depends on whether the answer has one.

        Raises:
            SampleError: The template cannot express the answer.
        """
        if not self.template or self.family.process is not None or self.family.is_prefix_lm:
            return self.prompt(question), answer.text
        sample = attrs.evolve(question, turns=(*question.turns, answer))
        refuse_unexpressed(sample, self._conversations.style)
        located = self._conversations.answers(self._conversations.prepare(sample))
        start, end = located.spans[-1]
        written = located.text[start:end]
        ending = next((token for token in self._conversations.end_of_turn if written.endswith(token)), "")
        return self._with_one_bos(located.text[:start], [])[0], written.removesuffix(ending)

    def _bare(self, prompt: str) -> str:
        """A prefix language model's prompt without what its processor adds: the BOS and the line's end."""
        return prompt.replace(self.tokenizer.bos_token, "", 1).removesuffix("\n")

    def describe_template(self) -> str:
        """Say which chat template writes the rows, and how answers end.

        Raises:
            ModelError: The template renders no conversation, or nothing ends its answers.
        """
        ending = self._conversations.ending
        added = ending.each or ending.last or ending.closing
        end = f"answers end with {ending.text!r}" if ending.text else "answers end as it writes them"
        whose = " (data.learn_end)" if added or not ending.text else ""
        unread = "" if self._begins_at_id or self.data.assistant_id is None else "; data.assistant_id is not needed"
        return f"{self.template_origin}; {end}{whose}{unread}"

    @property
    def _begins_at_id(self) -> bool:
        """Whether a token, and not the turns' places, says where what is learned begins."""
        return self.data.chat_template == PLAIN and self.data.assistant_id is not None

    def _render(self, sample: Sample) -> tuple[str, list[tuple[int, int]]]:
        answers = [turn for turn in sample.turns if turn.role == "assistant"]
        if any(isinstance(part, ImageSlot) for turn in answers for part in turn.parts):
            msg = f"{sample.source}: an assistant turn holds an image; images can be shown, not answered"
            raise SampleError(msg)
        is_masked = self.data.train_on_completions or _has_unlearned(sample)
        if not is_masked and self._conversations.answers.is_plain(sample):
            return self._conversations.write(sample), []
        located = self._conversations.answers(sample)
        return located.text, located.spans

    @functools.cached_property
    def _conversations(self) -> Conversations:
        return Conversations(
            template=self.template,
            tokenizer=self.tokenizer,
            tokenize=self._tokenize,
            image_token=self.image_token,
            stop_ids=self.stop_ids,
            learns_end=self.data.learn_end,
        )

    def _learned_spans(self, sample: Sample, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Say which spans make the mask: of answers that are learned, or where all text is, of those that are not.

        Raises:
            SampleError: A turn is not to be learned that no mask tells from the rest.
        """
        if self._begins_at_id and _has_unlearned(sample):
            msg = (
                f"{sample.source}: a turn is marked as not to be learned, and data.assistant_id tells no turns apart; "
                "leave it out, and the turns' own places are used"
            )
            raise SampleError(msg)
        if not self.data.train_on_completions:
            for number, turn in enumerate(sample.turns, 1):
                if turn.role != "assistant" and not turn.learned:
                    msg = (
                        f"{sample.source}: turn {number} is the {turn.role}'s and marked as not to be learned; set "
                        "data.train_on_completions = true, with which only answers are"
                    )
                    raise SampleError(msg)
        answers = [turn for turn in sample.turns if turn.role == "assistant"]
        is_chosen = self.data.train_on_completions
        return [span for span, turn in zip(spans, answers, strict=False) if turn.learned == is_chosen]

    def _with_one_bos(self, text: str, spans: list[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
        """Let the text begin with one BOS if the family has one, whether template or tokenizer writes it."""
        bos = self._bos
        if not bos or self.family.is_prefix_lm:
            return text, spans
        body = text
        while body.startswith(bos):
            body = body.removeprefix(bos)
        written = text.startswith(bos) or self.family.opens_with_eos or self._tokenizer_adds_bos
        shift = len(bos) * written - (len(text) - len(body))
        return (bos if written else "") + body, [(start + shift, end + shift) for start, end in spans]

    @property
    def _bos(self) -> str:
        """What a conversation begins with; empty if nothing."""
        bos: str = self.tokenizer.bos_token or (self.tokenizer.eos_token if self.family.opens_with_eos else "")
        return bos

    @functools.cached_property
    def _tokenizer_adds_bos(self) -> bool:
        ids = self.tokenizer("a")["input_ids"]
        return bool(ids) and ids[0] == self.tokenizer.bos_token_id

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if self.image_id < 0:
            return [self._tokenize_around_images(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _tokenize_around_images(self, text: str) -> list[int]:
        """Tokenize what stands between images apart, as processors do whose images have no token in the vocabulary."""
        parts: list[list[int]] = self.tokenizer(text.split(self.image_token), add_special_tokens=False)["input_ids"]
        return list(itertools.chain(parts[0], *([self.image_id, *part] for part in parts[1:])))

    def _tokenize_behind_bos(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts whose BOS, if they have one, is the tokenizer's own addition.

        Some tokenizers begin a text with "▁" but not what follows a BOS within it.
        """
        bos = self.tokenizer.bos_token or ""
        opening = [[self.tokenizer.bos_token_id] if bos and text.startswith(bos) else [] for text in texts]
        bodies = self._tokenize([text.removeprefix(bos) for text in texts])
        return [first + rest for first, rest in zip(opening, bodies, strict=True)]

    def _spell(self, text: str) -> str:
        """Write images as their processor does, but as one token each."""
        spelled = text.replace(self.image_token, self._image_token_text)
        if not self.family.spaces_after_images:
            return spelled
        return re.sub(f"{re.escape(self._image_token_text)}(?=[^\\s<])", lambda found: f"{found[0]} ", spelled)

    def _spell_spans(self, text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Say where spans of a text stand once its images are spelled."""
        spelled, length, last = {}, 0, 0
        for bound in sorted({bound for span in spans for bound in span}):
            piece, after = text[last:bound], text[bound : bound + 1]
            spelled[bound] = length + len(self._spell(piece))
            # A space behind an image depends on what follows it.
            length += len(self._spell(piece + after)) - len(after)
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

    def _process(
        self, text: str, images: list[Image.Image], plain: IntArray, spans: list[tuple[int, int]], source: str
    ) -> tuple[IntArray, dict[str, Any]]:
        if self.family.is_prefix_lm:
            # The processor marks where the answer begins, if it is given apart.
            prompt, answer = self._bare(text[: spans[0][0]]), text[slice(*spans[0])]
            call: Callable[..., Mapping[str, Any]] = functools.partial(
                self._on_host, suffix=answer.removesuffix(self.tokenizer.eos_token)
            )
        else:
            prompt = text
            call = self._call = self._call or self._find_call(text, images, plain, source)
        with foreign(lambda error: SampleError(f"{source}: the processor refuses the row: {error}")):
            outputs = dict(call(text=prompt, images=images))
        tokens = token_ids(outputs)
        inputs = {
            "pixel_values" if name == "images" else name: to_host(value)
            for name, value in outputs.items()
            if name not in ("input_ids", "attention_mask", "labels", "sft_format", "seq_lens") and value is not None
        }
        return tokens, inputs

    @functools.cached_property
    def _on_host(self) -> Callable[..., Mapping[str, Any]]:
        return on_host(self.processor)

    def _find_call(
        self, text: str, images: list[Image.Image], plain: IntArray, source: str
    ) -> Callable[..., Mapping[str, Any]]:
        """Find how this processor has to be called so that it gives the template's ids, with one BOS.

        Some add a BOS to a text that has one, some take no `add_special_tokens`; each way is tried on the first row.
        """
        if self.family.process is not None:
            return functools.partial(self.family.process, self.processor)
        bos = self.tokenizer.bos_token or ""

        def make(strip: bool, options: Mapping[str, Any]) -> Callable[..., Mapping[str, Any]]:
            def call(text: str, images: list[Image.Image]) -> Mapping[str, Any]:
                text = text.removeprefix(bos) if strip else text
                # A text, not a list of one: DeepSeek's processor takes one image per text of a list.
                outputs: Mapping[str, Any] = self._on_host(text=text, images=images, **options)
                return outputs

            return call

        problems = []
        # DeepSeek-OCR's cuts the last token off, if it is not told otherwise.
        ways: tuple[dict[str, Any], ...] = ({"add_special_tokens": False}, {}, {"inference_mode": False})
        for strip, options in itertools.product((False, True), ways):
            call = make(strip, options)
            try:
                with foreign(lambda error: SampleError(f"{source}: the processor refuses the row: {error}")):
                    tokens = token_ids(call(text, images))
                expand_placeholders(plain, tokens, self.image_id, source)
            except SampleError as error:
                problems.append(str(error))
            else:
                return call
        raise SampleError(problems[0])

    def _is_marker(self, tokens: IntArray) -> BoolArray:
        """Mark the tokens around an image that only ever occur there."""
        return np.isin(tokens, self._markers)

    @functools.cached_property
    def _markers(self) -> list[int]:
        vocabulary = self.tokenizer.get_vocab()
        return [*(vocabulary[text] for text in MARKERS if text in vocabulary), self.image_id]

    def _after_assistant_id(self, plain: IntArray, source: str) -> BoolArray:
        places = np.flatnonzero(plain == self.data.assistant_id)
        if not len(places):
            msg = (
                f"{source}: the row has no token data.assistant_id={self.data.assistant_id}, after which the answer "
                "would begin; leave it out, and the turns' own places are used"
            )
            raise SampleError(msg)
        after: BoolArray = np.arange(len(plain)) > places[0]
        return after


def make_encoder(processor: Any, config: Mapping[str, Any], family: Family, data: DataSection) -> Encoder:
    """Make the encoder of a model.

    Args:
        processor: As `load_processor` returns it.
        config: The model's config.json.
        family: The family's description.
        data: The recipe's section.

    Raises:
        ModelError: The model does not say which token stands for an image, or its prompts cannot be learned.
    """
    if family.is_prefix_lm and not data.train_on_completions:
        msg = (
            "data.train_on_completions: the model's prompts see themselves whole, so that only answers can be learned; "
            "set it to true"
        )
        raise ModelError(msg)
    tokenizer = getattr(processor, "tokenizer", processor)
    settle_tokenizer(tokenizer)
    template = find_template(processor, tokenizer, family, data)
    # The processor first: what it writes is what has to be found again.
    image_id = family.image_id if family.image_id is not None else getattr(processor, "image_token_id", None)
    for key in ("image_token_id", "image_token_index"):
        image_id = config.get(key) if image_id is None else image_id
    image_token = family.image_mark or getattr(processor, "image_token", None)
    if image_token is None and image_id is not None:
        image_token = tokenizer.convert_ids_to_tokens(image_id)
    if image_id is None and image_token is not None:
        image_id = tokenizer.convert_tokens_to_ids(str(image_token))
    if image_id is None or image_token is None:
        msg = "the model's configuration names no image token (image_token_id); it is not an image-to-text model"
        raise ModelError(msg)
    processor, max_pixels = with_budget(processor, data.max_pixels)
    return Encoder(
        processor=processor,
        tokenizer=tokenizer,
        family=family,
        template=template.text,
        template_origin=template.origin,
        image_token=str(image_token),
        image_id=int(image_id),
        data=data,
        stop_ids=find_stop_ids(config, processor, tokenizer),
        max_pixels=max_pixels,
        preparation=preparation_fingerprint(processor, data, max_pixels),
    )


def _has_unlearned(sample: Sample) -> bool:
    return not all(turn.learned for turn in sample.turns)


def cut(example: Example, data: DataSection) -> Example:
    """Shorten a row to `data.max_seq_length`; text may be cut, images never.

    Raises:
        LongRowError: The row is longer, and the recipe wants no row cut.
        SampleError: An image, or everything supervised, lies beyond; or nothing is supervised at all.
    """
    n_tokens, max_tokens = len(example.tokens), data.max_seq_length
    if n_tokens > max_tokens:
        if data.on_long_row != "cut":
            msg = f"{example.source}: {n_tokens:,} tokens exceed data.max_seq_length={max_tokens}; raise it"
            raise LongRowError(msg)
        n_cut = int(example.placeholders[max_tokens:].sum())
        if n_cut:
            msg = (
                f"{example.source}: {n_tokens:,} tokens exceed data.max_seq_length={max_tokens} and "
                f"{n_cut:,} image tokens would be cut; raise it, or shrink the images with data.max_pixels "
                "or data.image_resize_shape"
            )
            raise SampleError(msg)
        inputs = {
            name: value[:, :max_tokens] if _is_per_token(value, n_tokens) else value
            for name, value in example.inputs.items()
        }
        example = attrs.evolve(
            example,
            tokens=example.tokens[:max_tokens],
            supervised=example.supervised[:max_tokens],
            placeholders=example.placeholders[:max_tokens],
            inputs=inputs,
            cut=Cut(
                source=example.source,
                n_tokens=n_tokens,
                n_kept=max_tokens,
                n_lost=int(example.supervised[max_tokens:].sum()),
            ),
        )
    if not example.supervised.any():
        beyond = f" within data.max_seq_length={max_tokens} ({n_tokens:,} tokens)" if n_tokens > max_tokens else ""
        msg = f"{example.source}: no token is supervised{beyond}; there is nothing to learn from"
        raise SampleError(msg)
    return example


def _is_per_token(value: Any, n_tokens: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim > 1 and value.shape[1] == n_tokens and value.dtype.kind in "iub"
