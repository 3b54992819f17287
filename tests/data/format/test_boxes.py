"""Boxes in texts: written as families write them, whatever becomes of the image's size."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.data.format.box_rows import BOX, SOURCE, learned, sample_of
from tests.training import picture
from vlora import models
from vlora.data.format.boxes import (
    DEEPSEEK_BOXES,
    FLORENCE_BOXES,
    INTERNVL_BOXES,
    PALIGEMMA_BOXES,
    QWEN2_BOXES,
    QWEN3_BOXES,
    QWEN25_BOXES,
    BoxStyle,
    has_marks,
    read_objects,
    write_objects,
)
from vlora.data.format.samples import Reading, format_sample, read_sample
from vlora.data.opening import read_rows
from vlora.errors import SampleError
from vlora.recipe.schema import DataSection
from vlora.types import ImageSlot, Objects, Sample, Turn

STYLES = {
    "qwen2": QWEN2_BOXES,
    "qwen2.5": QWEN25_BOXES,
    "qwen3": QWEN3_BOXES,
    "internvl": INTERNVL_BOXES,
    "paligemma": PALIGEMMA_BOXES,
    "deepseek": DEEPSEEK_BOXES,
    "florence": FLORENCE_BOXES,
}


Encoding = Callable[..., models.Encoder]


def write(text: str, objects: Any, style: BoxStyle, *sizes: tuple[tuple[int, int], tuple[int, int]]) -> str:
    """Write the boxes of one answer."""
    turns = (Turn("user", (ImageSlot(0), "Where?")), Turn("assistant", (text,)))
    return write_objects(turns, read_objects(objects, SOURCE), sizes, style, SOURCE)[1].text


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (
            "qwen2",
            "<|object_ref_start|>a cat<|object_ref_end|>"  # noqa: ISC004 - one text
            "<|box_start|>(50,100),(500,1000)<|box_end|> <|box_start|>(250,250)<|box_end|>",
        ),
        ("qwen2.5", "a cat[28, 28, 280, 280] [140, 70]"),
        ("qwen3", "a cat[50, 100, 500, 1000] [250, 250]"),
        ("deepseek", "<|ref|>a cat<|/ref|><|det|>[[50, 100, 500, 999]]<|/det|> <|det|>[[250, 250]]<|/det|>"),
        ("florence", "a cat<loc_50><loc_100><loc_500><loc_999> <loc_250><loc_250>"),
        ("internvl", "<ref>a cat</ref><box>[[50, 100, 500, 1000]]</box> <box>[[250, 250]]</box>"),
    ],
)
@pytest.mark.parametrize("kind", ["real", "norm1", None])
def test_how_families_write(style: str, expected: str, kind: str | None) -> None:
    """The same boxes, of pixels or of shares, are written as each family has learned to."""
    boxes = [[10, 10, 100, 100], [50, 25]] if kind != "norm1" else [[0.05, 0.1, 0.5, 1], [0.25, 0.25]]
    objects = {"ref": ["a cat"], "bbox": boxes, "bbox_type": kind, "image_id": None}

    found = write("<ref-object><bbox> <bbox>", objects, STYLES[style], ((200, 100), (560, 280)))

    assert found == expected


def test_how_paligemma_writes() -> None:
    """Four tokens for places, y before x; a point has none."""
    size = ((200, 100), (200, 100))
    assert write("<bbox> cat", {"bbox": [[0, 50, 200, 100]]}, PALIGEMMA_BOXES, size) == (
        "<loc0512><loc0000><loc1023><loc1023> cat"
    )
    with pytest.raises(SampleError, match=r"^rows row 3: .*the point \[0\.0, 50\.0\], .*no way to write points"):
        write("<bbox>", {"bbox": [[0, 50]]}, PALIGEMMA_BOXES, size)


def numbers_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


sides = st.integers(1, 5000)


shares = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda found: (*map(min, found[:2], found[2:]), *map(max, found[:2], found[2:]))
)


@pytest.mark.parametrize("name", STYLES)
@given(share=shares, stored=st.tuples(sides, sides), given_size=st.tuples(sides, sides))
@example((0.0, 0.0, 1.0, 1.0), (1, 1), (5000, 3))
def test_round_trip(name: str, share: tuple[float, ...], stored: tuple[int, int], given_size: tuple[int, int]) -> None:
    """A box that is written and read again lies within one unit of where it was, whatever the image's size becomes."""
    style = STYLES[name]
    pixels = [number * stored[index % 2] for index, number in enumerate(share)]
    by_pixels = write("<bbox>", {"bbox": [pixels]}, style, (stored, given_size))
    by_shares = write("<bbox>", {"bbox": [list(share)], "bbox_type": "norm1"}, style, (stored, given_size))
    sizes = given_size if style.scale is None else (style.scale, style.scale)
    for text in (by_pixels, by_shares):
        found = numbers_in(text)
        if name == "paligemma":
            found = [found[index] for index in (1, 0, 3, 2)]
        assert len(found) == 4
        for index, number in enumerate(found):
            assert 0 <= number <= sizes[index % 2]
            assert abs(number - share[index] * sizes[index % 2]) <= 1
        assert found[0] <= found[2]
        assert found[1] <= found[3]


def test_several_images_and_turns() -> None:
    """A box is of the image that it names, or of the first; marks count on through thoughts, questions and answers."""
    turns = (
        Turn("user", (ImageSlot(0), "Is <ref-object> at <bbox>", ImageSlot(1), "or <bbox>?")),
        Turn("assistant", ("At <bbox>.",), thought="<ref-object>, <bbox>"),
    )
    objects = read_objects(
        '{"ref": ["it", "<bbox>"], "bbox": [[1, 2], [3, 4], [5, 6], [7, 8]], "image_id": [0, 1, 1]}', SOURCE
    )
    sizes = [((10, 10), (10, 10)), ((20, 40), (20, 40))]

    found = write_objects(turns, objects, sizes, QWEN3_BOXES, SOURCE)

    assert [part for part in found[0].parts if isinstance(part, str)] == ["Is it at [100, 200]", "or [150, 100]?"]
    assert found[1].thought == "<bbox>, [250, 150]"
    assert found[1].text == "At [700, 800]."


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        (["a"], "expected bbox, ref"),
        ("[1, 2]", "expected bbox, ref"),
        ("no JSON", "expected bbox, ref"),
        ({"bbox": [[1, 2, 3, 4]], "area": [9]}, "area, which nothing reads"),
        ({"bbox": [1, 2, 3, 4]}, "the box 1, expected"),
        ({"bbox": {"x": 1}}, "expected a list"),
        ({"bbox": [[1, 2, 3]]}, "expected [x1, y1, x2, y2]"),
        ({"bbox": [[1, 2, 3, "4"]]}, "expected [x1, y1, x2, y2]"),
        ({"bbox": [[1, 2, 3, True]]}, "expected [x1, y1, x2, y2]"),
        ({"bbox": [[1, 2, 3, float("nan")]]}, "expected [x1, y1, x2, y2]"),
        ({"bbox": [[1, 2, 3, 10**400]]}, "expected [x1, y1, x2, y2]"),
        ({"bbox": [[5, 5, 3, 9]]}, "not width and height"),
        ({"bbox": [[1, 2, 3, 4]], "bbox_type": "norm1"}, "from 0 to 1"),
        ({"bbox": [[1, 2, 3, 4]], "bbox_type": "xywh"}, "expected 'real' or 'norm1'"),
        ({"bbox": [[1, 2, 3, 4]], "image_id": [-1]}, "image_id"),
        ({"bbox": [[1, 2, 3, 4]], "image_id": [0, 0]}, "image_id"),
        ({"bbox": [[1, 2, 3, 4]], "image_id": 0}, "expected a list"),
        ({"bbox": [[1, 2, 3, 4]], "image_id": [1]}, "image 1, counted from 0, and the row has 1"),
        ({"bbox": [[1, 2, 3, 4]], "ref": [3]}, "the name 3"),
        ({"bbox": [[1, 2, 3, 4]], "ref": ["a"]}, "<ref-object> 0 times"),
        ({"bbox": []}, "<bbox> 1 times and 'objects' holds 0"),
        ({"bbox": [[1, 2, 3, 4]] * 2}, "<bbox> 1 times and 'objects' holds 2"),
        ({"bbox": [[1, 2, 3, 12]]}, "does not lie in its image of 10 x 10"),
        ({"bbox": [[-2, 2, 3, 4]]}, "does not lie in its image"),
    ],
)
def test_what_is_refused(objects: Any, why: str) -> None:
    """What is no box, or stands for no mark, or lies in no image is a bad row that says so."""
    with pytest.raises(SampleError, match=rf"^rows row 3: .*{re.escape(why)}"):
        write("<bbox>", objects, QWEN3_BOXES, ((10, 10), (10, 10)))


def test_rounding_beyond_the_edge() -> None:
    """A box that rounding has pushed over the edge by up to a pixel ends at the edge."""
    assert write("<bbox>", {"bbox": [[-0.5, 0, 10.9, 10]]}, QWEN3_BOXES, ((10, 10), (10, 10))) == "[0, 0, 1000, 1000]"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bbox", "ref", "bbox_type", "image_id", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(json_like)
def test_any_objects(value: Any) -> None:
    """Whatever a row holds, it is boxes or one row's error."""
    try:
        found = read_objects(value, SOURCE)
    except SampleError as error:
        assert str(error).startswith("rows row 3: ")  # noqa: PT017 - either is right
    else:
        assert len(found.images) == len(found.boxes)


def row_of(answer: str, objects: Any, **columns: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "<image>Where is <ref-object>?"}, {"role": "assistant", "content": answer}]
    return {"images": ["a.png"], "messages": messages, "objects": objects, **columns}


NAMED = {"ref": ["a cat"], "bbox": [[1, 2, 3.5, 4]]}


@pytest.mark.parametrize("objects", [NAMED, json.dumps(NAMED), {**NAMED, "bbox_type": None, "image_id": None}])
def test_rows_with_boxes(objects: Any) -> None:
    """The boxes of a row are read from its column, JSON in a text too, and its column is named as used."""
    sample, use = read_sample(row_of("<bbox>", objects), SOURCE, Reading())

    assert sample.objects == Objects(((1.0, 2.0, 3.5, 4.0),), ("a cat",), (0,))
    assert sample.turns[1].text == "<bbox>"
    assert use.used["objects"] == "boxes"


@pytest.mark.parametrize("written", ["1e0", "1.0", "1"])
def test_boxes_of_files(written: str, tmp_path: Path) -> None:
    """However a file writes its numbers, they are numbers."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row_of("<bbox>", {**NAMED, "bbox": [["@", 2.50, 3, 4]]})).replace('"@"', written))
    train, _ = read_rows(DataSection(path=str(path)))

    assert train[0].objects == Objects(((1.0, 2.5, 3.0, 4.0),), ("a cat",), (0,))


def test_boxes_that_no_text_uses() -> None:
    """Boxes without a mark are a column that is not used, and marks without boxes are words; a mapping is obeyed."""
    plain = {"image": "a.png", "question": "Where?", "answer": "Here."}
    sample, use = read_sample({**plain, "objects": {"bbox": [[1, 2, 3, 4]], "area": [9]}}, SOURCE, Reading())
    assert sample.objects is None
    assert use.unused == {"objects"}
    empty: tuple[Any, ...] = (None, "", {}, {"bbox": None, "ref": []})
    for nothing in empty:
        words = format_sample({**plain, "answer": "<bbox>", "objects": nothing}, SOURCE)
        assert (words.objects, words.turns[1].text) == (None, "<bbox>")
    mapped = Reading(columns={"regions": "objects"})
    sample, use = read_sample({**plain, "answer": "<bbox>", "regions": {"bbox": [[1, 2]]}}, SOURCE, mapped)
    assert sample.objects == Objects(((1.0, 2.0),), (), (0,))
    assert use.used["regions"] == "as objects: boxes"
    with pytest.raises(SampleError, match=r"^rows row 3: data\.columns maps the row's boxes, and no text holds <bbox>"):
        read_sample({**plain, "regions": {"bbox": [[1, 2]]}}, SOURCE, mapped)


def test_marks_are_counted_when_a_row_is_read() -> None:
    """More marks than boxes are a bad row before any image is opened."""
    with pytest.raises(SampleError, match=r"^rows row 3: the texts hold <bbox> 2 times and 'objects' holds 1"):
        format_sample(row_of("<bbox> <bbox>", NAMED), SOURCE)


def test_images_of_boxes_are_those_of_the_column() -> None:
    """A box names its image as the row's column counts, in whatever order the texts show them."""
    messages = [{"role": "user", "content": "<image 2><image 1>"}, {"role": "assistant", "content": "<bbox> <bbox>"}]
    row = {"images": ["a", "b"], "messages": messages, "objects": {"bbox": [[1, 2], [3, 4]], "image_id": [0, 1]}}
    sample = format_sample(row, SOURCE)

    assert sample.images == ("b", "a")
    assert sample.objects is not None
    assert sample.objects.images == (1, 0)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen2_vl", "<|box_start|>(100,125),(500,500)<|box_end|>"),
        ("qwen3_vl", "[100, 125, 500, 500]"),
        ("qwen3_vl_moe", "[100, 125, 500, 500]"),
        ("qwen3_5", "[100, 125, 500, 500]"),
        ("internvl", "<box>[[100, 125, 500, 500]]</box>"),
        ("deepseek_vl_v2", "<|det|>[[100, 125, 500, 500]]<|/det|>"),
        ("paligemma", "<loc0128><loc0102><loc0512><loc0512>"),
    ],
)
@pytest.mark.parametrize("data", [{}, {"max_pixels": 1500}, {"image_resize_shape": (32, 64)}])
def test_families(family: str, expected: str, data: dict[str, Any], encoder: Encoding) -> None:
    """Shares of the sides stay what they are, whatever the recipe makes of sizes."""
    found = learned(encoder(family, train_on_completions=True, **data), sample_of(picture(100, 80), BOX))

    assert expected.replace(" ", "") in found.replace(" ", "")


def test_marks_without_boxes_are_text(encoder: Encoding) -> None:
    """In a row without boxes a mark is text like any other."""
    turns = (Turn("user", (ImageSlot(0), "Where?")), Turn("assistant", ("At <bbox>.",)))
    encode = encoder("qwen3_vl", train_on_completions=True)

    assert "At <bbox>." in learned(encode, Sample(SOURCE, turns, (picture(32, 32),)))
    assert has_marks("At <bbox>.")
    assert has_marks("a <ref-object>")
    assert not has_marks("a box")


def test_lengths_of_rows_with_boxes(encoder: Encoding) -> None:
    """A row's boxes count towards its length; no image is read for that."""
    encode = encoder("qwen3_vl")
    estimate = models.LengthEstimator(encode)
    image = picture(64, 64)
    plain = Sample(SOURCE, sample_of(image, BOX).turns, (image,))
    boxed = sample_of(image, {"bbox": [[10, 10, 50, 40]] * 9}, "<bbox>" * 9)

    assert abs(estimate(boxed) - len(encode(boxed).tokens)) <= 9 * 4
    assert estimate(boxed) > estimate(plain) + 9


def test_objects_are_values() -> None:
    """What stands for a row's marks is compared by value."""
    assert read_objects(BOX, SOURCE) == Objects(((10.0, 10.0, 50.0, 40.0),), (), (0,))
