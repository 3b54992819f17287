"""Images as rows spell them."""

from typing import Any

import pytest

from vlora import format_sample
from vlora.data.format.pictures import file_name, list_images, own_images, unread_beside
from vlora.errors import SampleError


def test_pixels_are_one_image() -> None:
    """An image that is written as lists of numbers is one value, which reading images refuses."""
    pixels = [[[0, 0, 0], [1, 2, 3]]]

    for images in (pixels, [pixels]):
        assert format_sample({"question": "What?", "answer": "x", "image": images}).images == (images,)


def test_images_in_lists_and_in_json_are_one_list() -> None:
    """In their order; nothing and empty names are left out, and objects that name an image are its name."""
    value = ["a.png", ["b.png", None, ""], {"url": "c.png"}, {"bytes": None, "path": "d.png"}]

    assert list_images(value) == ["a.png", "b.png", "c.png", "d.png"]
    assert list_images('["a.png", "b.png"]') == ["a.png", "b.png"]
    assert list_images(None) == list_images("") == []


@pytest.mark.parametrize(
    ("name", "last"),
    [("a/b.png", "b.png"), (r"C:\a\b.png", "b.png"), ({"path": "x/y.jpg"}, "y.jpg"), ("", None), (b"x", None)],
)
def test_names_of_files(name: Any, last: str | None) -> None:
    """The last part of a path, however it is written."""
    assert file_name(name) == last


def test_what_stands_beside_an_image_is_named() -> None:
    """An object's keys that say something else than which image it is."""
    assert unread_beside({"url": "a.png", "detail": "high"}) == {"detail": "high"}
    assert unread_beside([{"image_url": {"url": "a.png", "detail": "low"}}]) == {"detail": "low"}
    assert unread_beside({"path": "a.png", "bytes": b"x"}) == {}
    assert unread_beside({"text": "no image"}) == {}


def test_two_columns_of_images_have_to_agree() -> None:
    """One that repeats the other is no second one."""
    assert own_images({"image": "a.png", "images": ["a.png"]}, "row 1") == ["a.png"]
    with pytest.raises(SampleError, match=r"both hold images"):
        own_images({"image": "a.png", "images": ["b.png"]}, "row 1")
