"""Boxes as families write them, in the pixels or shares of the image that the tower gets."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.data.format.box_rows import BOX, learned, sample_of
from tests.training import picture
from vlora import models
from vlora.data.format.image_sizes import Asked, SizedImage
from vlora.errors import SampleError
from vlora.models.families.registry import FAMILIES

Encoding = Callable[..., models.Encoder]


@pytest.mark.parametrize(
    ("data", "image", "size"),
    [
        ({}, (96, 80), (96, 80)),
        ({}, (100, 84), (96, 80)),
        ({"max_pixels": 1500}, (100, 80), (32, 32)),
        ({"image_resize_shape": (32, 64)}, (100, 80), (64, 32)),
        ({}, (400, 320), (96, 80)),
        ({}, (20, 16), (48, 32)),
    ],
)
def test_pixels_follow_every_resizing(
    data: dict[str, Any], image: tuple[int, int], size: tuple[int, int], encoder: Encoding
) -> None:
    """Where a family writes pixels they are those of the image as the tower gets it."""
    encode = encoder("qwen2_5_vl", train_on_completions=True, **data)
    sample = sample_of(picture(*image), {"bbox": [[0, image[1] / 2, image[0] / 2, image[1]]]})
    grid = encode(sample).inputs["image_grid_thw"][0].tolist()
    patch = encode.processor.image_processor.patch_size

    assert (grid[2] * patch, grid[1] * patch) == size
    assert f"[0, {size[1] // 2}, {size[0] // 2}, {size[1]}]" in learned(encode, sample)


def test_pixels_follow_a_row_s_own_size(encoder: Encoding) -> None:
    """A size that the row asks for moves its boxes with it."""
    encode = encoder("qwen2_5_vl", train_on_completions=True)
    image = SizedImage(picture(100, 80), Asked(resized_height=48, resized_width=64))

    assert "At [16, 12, 32, 36]." in learned(encode, sample_of(image, {"bbox": [[25, 20, 50, 60]]}))


def test_boxes_of_turned_photographs(encoder: Encoding) -> None:
    """Pixels are those of the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    picture(80, 100).save(stream, format="PNG", exif=exif)
    encode = encoder("qwen3_vl", train_on_completions=True)

    assert "[100, 125, 1000, 1000]" in learned(encode, sample_of(stream.getvalue(), {"bbox": [[10, 10, 100, 80]]}))


def test_files_are_not_read_to_measure_boxes(
    encoder: Encoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows are only measured, sizes come from headers; what has none is refused all the same."""
    picture(100, 80).save(tmp_path / "a.png")
    measure = models.RowMeasurer(encoder("qwen3_vl", train_on_completions=True))
    sample = sample_of(str(tmp_path / "a.png"), BOX)
    whole = measure(sample)
    monkeypatch.setattr("vlora.models.encode.images.opening.read_regular", lambda _: pytest.fail("a file is read"))

    assert measure(sample).tokens.tolist() == whole.tokens.tolist()
    assert "[100, 125, 500, 500]" in measure.encoder.tokenizer.decode(whole.tokens)
    monkeypatch.undo()
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(SampleError, match=r"^rows row 3: cannot read the image .*a\.png"):
        measure(sample)


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "llava"])
def test_families_without_a_convention(family: str, encoder: Encoding) -> None:
    """How a family writes boxes is not guessed."""
    assert FAMILIES[family].format.boxes is None
    with pytest.raises(SampleError, match=r"^rows row 3: .*family writes them is not known; write them into the texts"):
        encoder(family)(sample_of(picture(100, 80), BOX))
