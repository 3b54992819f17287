"""Pictures of every format and mode, whole and damaged."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from vlora import models
from vlora.errors import SampleError
from vlora.models.encode.images import decoding
from vlora.models.encode.images.decoding import FORMATS, decode, read_size, to_8_bits

MODES = (
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "RGBa",
    "La",
    "I;16",
)
DEEP_MODES: dict[str, Any] = {"I;16": np.uint16, "I;16B": ">u2", "I;16L": "<u2", "I": np.int32, "F": np.float32}
WAYS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in FORMATS),
    ("JPEG", {"progressive": True}),
    ("WEBP", {"lossless": True}),
    *(("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
]


def noise(width: int = 23, height: int = 17, seed: int = 0) -> Image.Image:
    """Make a picture that does not compress away."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


WRITTEN = {(kind, *options.values()): write(noise(), kind, **options) for kind, options in WAYS}


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing of Pillow's is heard; what libtiff says of a damaged file comes from C, and is not ours to catch."""
    yield
    assert "tiff" in request.node.name.lower() or "Warning" not in capfd.readouterr().err


def test_what_is_decoded() -> None:
    """The formats that the documentation names, whatever else Pillow knows."""
    assert {*FORMATS} >= {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"}
    for kind in ("EPS", "PCX", "ICO", "TGA", "IM", "SGI", "PSD", "WMF"):
        assert kind not in FORMATS
    for kind in ("PCX", "ICO", "TGA", "EPS"):
        with pytest.raises(ValueError, match=r"none of the formats that are read \(PNG, JPEG, "):
            decode(write(noise(), kind))


@pytest.mark.parametrize("kind", WRITTEN)
def test_formats(kind: tuple[str, ...]) -> None:
    """Every format opens, with its size from the header alone."""
    data = WRITTEN[kind]

    assert decode(data).size == (23, 17)
    assert decode(data).mode == "RGB"
    assert read_size(io.BytesIO(data)) == (23, 17)


@pytest.mark.parametrize("kind", WRITTEN)
@given(share=st.floats(0, 1, exclude_max=True))
@example(0.0)
def test_cut_short(kind: tuple[str, ...], share: float) -> None:
    """A file that is cut short is refused, unless nothing of its picture is missing."""
    data = WRITTEN[kind]
    try:
        found = decode(data[: int(len(data) * share)])
    except ValueError as error:
        assert str(error).startswith("it ")  # noqa: PT017 - a picture whose last bytes are no pixels is whole
        return

    assert found.tobytes() == decode(data).tobytes()


@pytest.mark.parametrize("kind", WRITTEN)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20))
def test_damaged(kind: tuple[str, ...], changes: list[tuple[float, int]]) -> None:
    """Whatever is damaged, a picture comes out or a reason, and no other exception; so of its size."""
    data = bytearray(WRITTEN[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    readers: tuple[Callable[[], tuple[int, int]], ...] = (
        lambda: decode(bytes(data)).size,
        lambda: read_size(io.BytesIO(data)),
    )
    for read in readers:
        try:
            width, height = read()
        except ValueError as error:
            assert str(error)  # noqa: PT017 - either is right
        else:
            assert width * height <= decoding.LARGEST_PICTURE


@given(st.binary(max_size=200))
def test_anything_else(data: bytes) -> None:
    """Bytes that are no picture are refused."""
    with pytest.raises(ValueError, match="it is damaged"):
        decode(data)


def test_damaged_pixels_of_a_png() -> None:
    """A PNG whose pixels do not fit its checksums is refused, though it could be decoded."""
    data = bytearray(WRITTEN["PNG",])
    place = data.index(b"IDAT") + 40
    data[place] ^= 1

    with pytest.raises(ValueError, match="damaged or cut short"):
        decode(bytes(data))


def bomb(width: int, height: int) -> bytes:
    """Write a PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("pillows", [True, False])
@pytest.mark.parametrize("size", [(20_000, 20_000), (178_956_971, 1), (2**31 - 1, 2**31 - 1)])
def test_bombs(pillows: bool, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many pixels are refused by the header, with Pillow's own bound and without."""
    if not pillows:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)

    with pytest.raises(SampleError, match=r"^row 3: cannot read the image .*178,?956,?970"):
        models.open_image(bomb(*size), "row 3")
    with pytest.raises(ValueError, match=r"178,?956,?970"):
        read_size(io.BytesIO(bomb(*size)))


def test_limits_hold_for_open_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that a row holds open is bound likewise; an empty one is none."""
    monkeypatch.setattr(decoding, "LARGEST_PICTURE", 100)

    with pytest.raises(ValueError, match="23 x 17 pixels, more than the 100"):
        decode(noise())
    with pytest.raises(ValueError, match="0 x 3 pixels"):
        decode(Image.new("RGB", (0, 3)))
    assert decode(noise(10, 10)).size == (10, 10)


def test_large_pictures_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's warnings of what is allowed here reach nobody."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings(record=True) as found:
        assert decode(WRITTEN["PNG",]).size == (23, 17)

    assert not found


@pytest.mark.parametrize("mode", MODES)
@given(grey=st.integers(0, 255))
@example(200)
def test_every_mode(mode: str, grey: int) -> None:
    """A grey picture stays as bright as it is in every mode that Pillow has, or is refused."""
    image = Image.new("L", (5, 4), grey)
    if mode == "LAB":
        with pytest.raises(ValueError, match="write it as RGB"):
            decode(Image.new("LAB", (5, 4)))
        return
    if mode == "1":
        # Others would be dithered.
        image = image.point(lambda value: 255 * (value > 127))
        grey = 255 * (grey > 127)
    if mode in DEEP_MODES:
        image = Image.fromarray((np.full((4, 5), grey) / (255 if mode == "F" else 1)).astype(DEEP_MODES[mode]))
    else:
        image = image.convert({"La": "LA", "PA": "P", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
    found = decode(image)

    assert (found.mode, found.size) == ("RGB", (5, 4))
    assert np.abs(np.asarray(found).astype(int) - grey).max() <= 3


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I;16L", "I", "F"])
@given(data=st.data())
def test_deep_pictures_are_never_black(kind: str, data: st.DataObject) -> None:
    """A deep picture with more than one value keeps the order of its values, and a good part of the range."""
    dtype = np.dtype(DEEP_MODES[kind])
    elements = {"allow_nan": False, "allow_infinity": False} if kind == "F" else None
    values = data.draw(arrays.arrays(dtype, (3, 4), elements=elements))
    found = to_8_bits(values)

    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
    if values.max() > (1 / 4 if kind == "F" else 255) or values.min() < 0:
        assert found.max() >= 63
    elif kind != "F":
        assert np.array_equal(found, values)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.uint16, [0, 65535], [0, 255]),
        (np.uint16, [0, 77 * 257, 65535], [0, 77, 255]),
        (np.uint16, [0, 4095], [0, 255]),
        (np.uint16, [0, 2048, 4000], [0, 128, 249]),
        (np.uint16, [0, 3, 255], [0, 3, 255]),
        (np.int32, [0, 65535], [0, 255]),
        (np.int32, [-1000, 0, 3000], [0, 64, 255]),
        (np.int32, [0, 2**31 - 1], [0, 255]),
        (np.int32, [-(2**31), 2**31 - 1], [0, 255]),
        (np.int32, [10**6, 10**6], [128, 128]),
        (np.float32, [0, 0.5, 1], [0, 128, 255]),
        (np.float32, [0, 0.25], [0, 64]),
        (np.float32, [0, 100, 255], [0, 100, 255]),
        (np.float32, [0, 1.5, 3], [0, 128, 255]),
        (np.float32, [-1, 0, 1], [0, 128, 255]),
        (np.float32, [0, 3e37, 3e38], [0, 26, 255]),
    ],
)
def test_the_rule_for_deep_pictures(dtype: Any, values: list[float], expected: list[int]) -> None:
    """Whole numbers fill the smallest usual number of bits, floats from 0 to 1 that range; all else its own range."""
    assert to_8_bits(np.array([values], dtype=dtype)).tolist() == [expected]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(value: float) -> None:
    """A float picture with a value that is not finite is a bad row."""
    with pytest.raises(SampleError, match=r"^row 3: .*no finite numbers"):
        models.open_image(Image.fromarray(np.array([[0.5, value]], dtype=np.float32)), "row 3")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_deep_files(kind: str) -> None:
    """Files of 16 bits are as bright as those of 8; so are 12 bits in 16."""
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    expected = decode(Image.fromarray(grey.astype(np.uint8))).tobytes()

    assert decode(write(Image.fromarray(grey * 257), kind)).tobytes() == expected
    if kind != "PPM":
        twelve = np.asarray(decode(write(Image.fromarray(grey * 16), kind)))[..., 0]
        assert np.abs(twelve.astype(int) - grey).max() <= 1


def test_float_files() -> None:
    """A TIFF of floats is scaled by its range."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)

    for factor in (1, 255, 5000):
        found = np.asarray(decode(write(Image.fromarray(ramp * factor), "TIFF")))[..., 0]
        assert np.abs(found.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_orientations(orientation: int, mode: str) -> None:
    """Every orientation is put upright as Pillow does it; what is none is let be."""
    image = noise() if mode == "RGB" else Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = write(image, "PNG", exif=exif)
    turned = decode(data)

    swapped = 5 <= orientation <= 8
    assert turned.size == (image.size[::-1] if swapped else image.size)
    if mode == "RGB":
        from PIL import ImageOps

        assert turned.tobytes() == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB").tobytes()


def test_first_frames() -> None:
    """Of a moving picture the first frame is taken."""
    frames = [noise(seed=1), noise(seed=2)]
    data = write(frames[0], "PNG", save_all=True, append_images=frames[1:])

    assert decode(data).tobytes() == frames[0].tobytes()


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc"])
def test_a_phones_own_pictures_are_named(brand: bytes) -> None:
    """They are not damaged; whoever has taken them learns what to do, whether the header is read or all of it."""
    data = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(100)
    for read in (lambda: decode(data), lambda: read_size(io.BytesIO(data), to_end=True)):
        with pytest.raises(ValueError, match=r"HEIC picture, .*; write it as JPEG or PNG"):
            read()
