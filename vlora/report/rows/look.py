"""One row as a page shows it: its tokens by whose they are, its images as the model receives them, what was cut."""

from collections.abc import Callable, Sequence

import attrs
import numpy as np
from PIL import Image

from ... import models
from ...build import Data
from ...data.truncate import truncate
from ...errors import SampleError
from ...types import Cut, Example, Sample
from ..inspect import Piece, divide, from_answer
from ..pictures import MOST_BYTES, Picture, make_picture
from .choice import Chosen

LEAST_SIDE = 128
"""Pixels: smaller pictures are enlarged."""
MOST_NUMBERS = 12
"""Whole numbers of an input that are written; of more its shape is."""


@attrs.frozen(kw_only=True)
class ImageLook:
    """An image of a row, or all of them where the processor's pictures cannot be told apart.

    Attributes:
        name: Which it is.
        size: Its size as the processor gets it; of several, all sizes.
        n_tokens: Tokens that stand for it; None if that is not known.
        is_processed: The pictures are the processor's pixels, and not what it was given.
        pictures: One, or its tiles.
    """

    name: str
    size: str
    n_tokens: int | None
    is_processed: bool
    pictures: tuple[Picture, ...]


@attrs.frozen(kw_only=True)
class RowLook:
    """A row.

    Attributes:
        chosen: Which it is.
        is_held_out: It is validated on.
        problem: Why it cannot be learned from; None if it can.
        pieces: Its tokens, as far as they are kept.
        lost: Those that `data.max_seq_length` leaves out.
        cut: How many that are; None if the row is whole.
        n_text: Text tokens that are kept.
        n_image: Image tokens.
        n_supervised: Tokens that are learned.
        rejected: The tokens of a worse answer to the same question; empty without one.
        is_wanted: Whether the row says that its answer is wanted; None if it does not say.
        images: Its images.
        inputs: The processor's outputs for the model: name, and numbers or shape.
    """

    chosen: Chosen
    is_held_out: bool = False
    problem: str | None = None
    pieces: tuple[Piece, ...] = ()
    lost: tuple[Piece, ...] = ()
    cut: Cut | None = None
    n_text: int = 0
    n_image: int = 0
    n_supervised: int = 0
    rejected: tuple[Piece, ...] = ()
    is_wanted: bool | None = None
    images: tuple[ImageLook, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()


def look_at(data: Data, chosen: Chosen, most_bytes: int = MOST_BYTES) -> RowLook:
    """Encode a row and look at it.

    Args:
        data: As `load_data` gives it.
        chosen: One of its rows.
        most_bytes: What the row's pictures may take together.
    """
    look = RowLook(chosen=chosen, is_held_out=chosen.rows is data.valid)
    encoder = data.encoder
    try:
        sample = chosen.rows[chosen.index]
        is_pair = encoder.family.format.is_encoder_decoder
        with chosen.rows.locating(chosen.index):
            whole = encoder(sample) if is_pair else encoder.encode_untruncated(sample)
            opened = encoder.open_images(sample)
            _, *others = models.encode_answers(encoder, sample) if sample.rejected else (whole,)
    except SampleError as error:
        return attrs.evolve(look, problem=_without_name(error, chosen))
    look = attrs.evolve(look, images=_look_at_images(encoder, sample, whole, opened, most_bytes))
    look = attrs.evolve(look, inputs=tuple((name, _describe(value)) for name, value in whole.inputs.items()))
    try:
        with chosen.rows.locating(chosen.index):
            kept = whole if is_pair else truncate(whole, encoder.data)
    except SampleError as error:
        look, kept = attrs.evolve(look, problem=_without_name(error, chosen)), whole
    roles = models.find_roles(encoder, sample, whole)
    n_kept, n_image = len(kept.tokens), int(kept.placeholders.sum())
    decode = make_decoder(encoder)
    special = np.isin(whole.tokens, sorted(_special_ids(encoder)))
    return attrs.evolve(
        look,
        pieces=divide(kept, decode, roles[:n_kept], special[:n_kept]),
        lost=divide(_behind(whole, n_kept), decode, roles[n_kept:], special[n_kept:]) if kept.cut else (),
        cut=kept.cut,
        n_text=n_kept - n_image,
        n_image=n_image,
        n_supervised=int(kept.supervised.sum()),
        rejected=_divide_rejected(encoder, sample, others, decode),
        is_wanted=sample.is_wanted,
    )


def _divide_rejected(
    encoder: models.Encoder, sample: Sample, examples: Sequence[Example], decode: Callable[[list[int]], str]
) -> tuple[Piece, ...]:
    """Divide the worse answer to a row's question by whose its tokens are, as the better one is."""
    ids = sorted(_special_ids(encoder))
    pieces: list[Piece] = []
    for example in examples:
        answer = from_answer(example)
        roles = models.find_roles(encoder, attrs.evolve(sample, turns=sample.rejected, rejected=()), example)
        roles = roles[len(example.tokens) - len(answer.tokens) :]
        pieces += divide(answer, decode, roles, np.isin(answer.tokens, ids))
    return tuple(pieces)


def make_decoder(encoder: models.Encoder) -> Callable[[list[int]], str]:
    """Give what decodes a run of tokens, with the space that tokenizers leave out at the beginning of a text."""
    tokenizer = encoder.tokenizer
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = str(tokenizer.decode(anchor))

    def decode(ids: list[int]) -> str:
        text = str(tokenizer.decode([*anchor, *ids]))
        return text.removeprefix(before) if text.startswith(before) else str(tokenizer.decode(ids))

    return decode


def _special_ids(encoder: models.Encoder) -> set[int]:
    tokenizer = encoder.tokenizer
    return {*map(int, tokenizer.all_special_ids), *map(int, getattr(tokenizer, "added_tokens_decoder", {}))}


def _without_name(error: SampleError, chosen: Chosen) -> str:
    return str(error).removeprefix(f"{chosen.source}: ")


def _behind(example: Example, start: int) -> Example:
    tokens, supervised = example.tokens[start:], example.supervised[start:]
    return Example(example.source, tokens, supervised, example.placeholders[start:])


def _look_at_images(
    encoder: models.Encoder, sample: Sample, whole: Example, opened: Sequence[Image.Image], most_bytes: int
) -> tuple[ImageLook, ...]:
    received = models.restore_pictures(encoder, whole, opened)
    n_pictures = sum(map(len, received.pictures))
    each = max(1, min(MOST_BYTES, most_bytes // max(1, n_pictures)))
    try:
        n_tokens: Sequence[int | None] = models.find_image_tokens(encoder, sample, whole)
    except SampleError:
        n_tokens = [None] * len(opened)
    names = [f"image {number}" for number in range(1, len(opened) + 1)]
    sizes = [f"{image.width}x{image.height}" for image in opened]
    if len(received.pictures) != len(opened):
        total = None if None in n_tokens else sum(number or 0 for number in n_tokens)
        names, sizes, n_tokens = [f"images 1 to {len(opened)}"], [", ".join(sizes)], [total]
    return tuple(
        ImageLook(
            name=name,
            size=size,
            n_tokens=number,
            is_processed=received.is_processed,
            pictures=tuple(
                make_picture(picture, f"{name} of {sample.source}", most_bytes=each, least_side=LEAST_SIDE)
                for picture in pictures
            ),
        )
        for name, size, number, pictures in zip(names, sizes, n_tokens, received.pictures, strict=True)
    )


def _describe(value: object) -> str:
    """Write what a processor gives: few whole numbers themselves, of arrays their shape."""
    if isinstance(value, list):
        return f"{len(value)} of {', '.join(sorted({_describe(item) for item in value[:MOST_NUMBERS]}))}"
    if not isinstance(value, np.ndarray):
        return str(value)[:80]
    if value.size <= MOST_NUMBERS and value.dtype.kind in "iub":
        rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
        return "; ".join("x".join(str(int(number)) for number in row) for row in rows)
    return f"{'x'.join(map(str, value.shape))} {value.dtype}"


def fold(pieces: Sequence[Piece], head: int, tail: int) -> tuple[list[Piece], list[Piece], list[Piece]]:
    """Divide pieces into a beginning, a middle and an end by their characters; a short text is its beginning. Pure.

    Args:
        pieces: The pieces.
        head: Characters of the beginning.
        tail: Characters of the end.
    """
    n_all = _length(pieces)
    if n_all <= head + tail:
        return list(pieces), [], []
    beginning, rest = _split(pieces, head)
    middle, end = _split(rest, max(0, _length(rest) - tail))
    return beginning, middle, end


def _length(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.text) for piece in pieces)


def _split(pieces: Sequence[Piece], n: int) -> tuple[list[Piece], list[Piece]]:
    """Divide pieces behind a number of characters; an image is not divided."""
    before: list[Piece] = []
    left = n
    for place, piece in enumerate(pieces):
        if left <= 0:
            return before, list(pieces[place:])
        if len(piece.text) > left and piece.kind != "image":
            first, second = (attrs.evolve(piece, text=text) for text in (piece.text[:left], piece.text[left:]))
            return [*before, first], [second, *pieces[place + 1 :]]
        before.append(piece)
        left -= len(piece.text)
    return before, []
