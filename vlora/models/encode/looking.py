"""Encoded rows for people who look at them: whose each token is, which tokens and pictures are of which image.

Nothing that is learned depends on any of it.
"""

import contextlib
from collections.abc import Sequence

from PIL import Image

from ...data.masking import expand_placeholders
from ...errors import SampleError
from ...types import BoolArray, Example, Sample
from .encoder import Encoder
from .images.received import Received
from .images.received import restore_pictures as restore
from .template.roles import TEMPLATE

PROMPT, ANSWER, IMAGE = "prompt", "assistant", "image"


def find_roles(encoder: Encoder, sample: Sample, example: Example) -> list[str]:
    """Say of each token whose it is: a role's of `Turn`, the template's ("template") or an image's ("image").

    Where the template's own text cannot be told from that of the turns, what is learned is the assistant's, and what is
    not is the "prompt".

    Args:
        encoder: What encoded the row.
        sample: The row.
        example: What it became, untruncated.
    """
    known = _find_text_roles(encoder, sample, example)
    rest = PROMPT if known is None else TEMPLATE
    roles = known if known is not None else [rest] * len(example.tokens)
    learned: BoolArray = example.supervised & encoder.data.train_on_completions
    roles = [ANSWER if role == rest and own else role for role, own in zip(roles, learned, strict=True)]
    return [IMAGE if image else role for role, image in zip(roles, example.placeholders, strict=True)]


def _find_text_roles(encoder: Encoder, sample: Sample, example: Example) -> list[str] | None:
    if encoder.family.format.is_encoder_decoder:
        return None
    with contextlib.suppress(SampleError):
        sample = encoder.write_boxes(sample)
        written = encoder.writer.write(sample)
        roles = encoder.writer.find_roles(sample, written)
        places, _ = expand_placeholders(written.plain, example.tokens, encoder.image_id, sample.source)
        if roles is not None and len(roles) == len(places):
            found = [IMAGE] * len(example.tokens)
            for place, role in zip(places.tolist(), roles, strict=True):
                found[place] = role
            return found
    return None


def find_image_tokens(encoder: Encoder, sample: Sample, example: Example) -> tuple[int, ...]:
    """Say how many tokens of a row stand for each of its images.

    Args:
        encoder: What encoded the row.
        sample: The row.
        example: What it became, untruncated.

    Raises:
        SampleError: It cannot be written.
    """
    if encoder.family.format.is_encoder_decoder:
        return (0,) * len(sample.images)
    written = encoder.writer.write(encoder.write_boxes(sample))
    return encoder.divide_placeholders(written.plain, example.tokens, sample.source)


def restore_pictures(encoder: Encoder, example: Example, images: Sequence[Image.Image]) -> Received:
    """Turn what the processor made of a row's images back into pictures, where that can be done.

    Args:
        encoder: What encoded the row, without `memory`.
        example: The row.
        images: As `open_images` gives them.
    """
    return restore(example.inputs, encoder.processor, images)
