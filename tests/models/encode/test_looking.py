"""Tokens of a row are told apart by the image that they stand for."""

from collections.abc import Callable

import pytest

from tests.training import picture
from vlora import format_sample, models

EncoderFactory = Callable[..., models.Encoder]


@pytest.mark.parametrize("family", ["qwen3_vl", "pixtral", "idefics3", "llava", "llava_onevision", "mllama"])
def test_tokens_of_images(family: str, encoder: EncoderFactory) -> None:
    """Each image has those that it has alone, and all together are the row's placeholders."""
    images = [picture(160, 96, 1), picture(40, 72, 2)]
    encode = encoder(family, train_on_completions=True)
    rows = [format_sample({"images": given, "question": "Well?", "answer": "Yes."}) for given in (images, *zip(images))]
    examples = [encode.encode_untruncated(row) for row in rows]
    together, *alone = (
        models.find_image_tokens(encode, row, example) for row, example in zip(rows, examples, strict=True)
    )

    assert sum(together) == examples[0].placeholders.sum()
    if family != "llava_onevision":  # whose tiles are of one size where there are several images
        assert together == tuple(n for counts in alone for n in counts)


def test_a_row_without_images(encoder: EncoderFactory) -> None:
    """It has none, and its text has its roles."""
    row = format_sample({"question": "Well?", "answer": "Yes."})
    encode = encoder("qwen3_vl", train_on_completions=True)
    example = encode.encode_untruncated(row)

    assert models.find_image_tokens(encode, row, example) == ()
    assert set(models.find_roles(encode, row, example)) == {"template", "user", "assistant"}
    assert models.restore_pictures(encode, example, []).pictures == ()
