"""What names in data sets lead to, and pictures that are written into texts."""

import base64
import contextlib
import io
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tests.training import picture
from vlora import models
from vlora.data.opening import read_rows
from vlora.data.readers.inline_images import decode_inline, is_inline
from vlora.data.rows import beside
from vlora.errors import SampleError
from vlora.models.encode.images.headers import read_size
from vlora.recipe.schema import DataSection
from vlora.system import files
from vlora.system.files import expand, find_alike, is_file, open_regular, open_text, read_regular

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")


def bytes_of(kind: str, width: int = 9) -> bytes:
    """Write a picture in one format."""
    stream = io.BytesIO()
    Image.new("RGB", (width, 7), "red").save(stream, format=kind)
    return stream.getvalue()


def refusal(image: Any) -> str:
    """Say why an image is refused; it is to be a bad row."""
    with pytest.raises(SampleError, match=r"^rows row 3: cannot read the image ") as caught:
        models.open_image(image, "rows row 3")
    assert len(str(caught.value)) < 800

    return str(caught.value)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path / "pipe.png"


def test_texts_are_files_or_pipes(tmp_path: Path, pipe: Path) -> None:
    """A pipe is read to its end, and a device, which may have none, is refused; UTF-8 is what is read."""
    (tmp_path / "text").write_text("\u00e4\n", encoding="utf-8")
    with open_text(tmp_path / "text") as file:
        assert file.read() == "\u00e4\n"
    writer = threading.Thread(target=pipe.write_text, args=("piped",))
    writer.start()
    with open_text(pipe) as file:
        assert file.read() == "piped"
    writer.join()
    for name, kind in ((tmp_path, "a folder"), ("/dev/zero", "a device"), (tmp_path / "none", "No such file")):
        with pytest.raises(OSError, match=kind):
            open_text(name)


def test_only_regular_files_are_opened(tmp_path: Path, pipe: Path) -> None:
    """Pipes, folders, sockets and devices are refused, and nobody waits for them; not even for their size."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        names = {
            "a named pipe": pipe,
            "a folder": tmp_path,
            "a socket": tmp_path / "socket.png",
            "a device": "/dev/zero",
        }
        for kind, name in names.items():
            assert kind in refusal(str(name))
            assert read_size(str(name)) is None


@pytest.mark.parametrize(
    "name",
    [
        "a" * 300,
        "a/" * 3000,
        "a\0b.png",
        "\ud800.png",
        "~nosuchuser/a.png",
        "a.png/b.png",
        "{'bytes': b'" + "x" * 999,
        "",
    ],
)
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    """Whatever a name is made of, it is a bad row, and not the end of a run; so it is beside the rows' file."""
    (tmp_path / "a.png").write_bytes(b"")
    for given_name in (name, beside(name, tmp_path), beside({"bytes": None, "path": name}, tmp_path)):
        assert isinstance(given_name, str)
        assert not is_file(given_name) or name == ""
        refusal(given_name)
        assert read_size(given_name) is None


def test_folder_that_cannot_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be looked at is a bad row."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "a.png")

    monkeypatch.setattr("pathlib.Path.stat", refuse)
    monkeypatch.setattr("os.stat", refuse)
    monkeypatch.setattr("os.path.isfile", lambda _: refuse())

    assert beside("a.png", tmp_path) == str(tmp_path / "a.png")
    assert "Permission denied" in refusal("a.png")


def test_files_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, base64 or bytes beyond the limit are refused before they are read or decoded."""
    path = tmp_path / "a.png"
    path.write_bytes(bytes_of("PNG"))
    assert read_regular(path) == path.read_bytes()
    with open_regular(path) as file:
        assert file.read() == path.read_bytes()
    text = base64.b64encode(path.read_bytes()).decode()
    monkeypatch.setattr(files, "LARGEST_FILE", 20)

    for image in (str(path), path.read_bytes(), text, "data:image/png;base64," + text):
        assert "more than the 20 that a picture may have" in refusal(image)


def test_file_addresses(tmp_path: Path) -> None:
    """An address of a file is its path, written as it is or in percents, with a host or without."""
    path = tmp_path / "a b%20c.png"
    path.write_bytes(bytes_of("PNG"))

    for url in (path.as_uri(), f"file://{path}", f"FILE://localhost{path}"):
        assert expand(url) == path
        assert beside(url, tmp_path) == str(path)
        assert models.open_image(url, "row").size == (9, 7)


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A "~" is the home folder, if anybody knows whose."""
    monkeypatch.setenv("HOME", "/home/somebody")

    assert expand("~/a.png") == Path("/home/somebody/a.png")
    assert expand("~nosuchuser/a.png") == Path("~nosuchuser/a.png")


@pytest.mark.parametrize("kind", KINDS)
def test_base64_is_a_picture(kind: str, tmp_path: Path) -> None:
    """Base64 is read with "data:" and without, in lines, in the alphabet of addresses and without padding."""
    data = bytes_of(kind)
    text = base64.b64encode(data).decode()
    ways = [
        text,
        text.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        base64.encodebytes(data).decode(),
        f"data:image/{kind.lower()};base64,{text}",
        f"DATA:;Base64,{text}",
    ]

    for way in ways:
        assert is_inline(way)
        assert decode_inline(way) == data
        assert beside(way, tmp_path) == way
        assert read_size(way) == (9, 7)
        assert models.open_image(way, "row").size == (9, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_base64(kind: str) -> None:
    """Base64 of a picture that is cut short or damaged is a bad row with a short name, and not a missing file."""
    text = base64.b64encode(bytes_of(kind, 900)).decode()
    for damaged in (text[: len(text) // 8 * 4 + 1], text[:200] + "!" + text[200:], "data:image/png;base64," + text[:9]):
        found = refusal(damaged)
        assert damaged[:40] in found
        assert len(found) < 300
        assert "No such file" not in found


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/", min_size=1, max_size=200))
@example("a" * 300)
@example("Qkpictures/of/people/who/stand/around/a/table/0001")
@example("AAAA/" * 30)
def test_names_are_no_pictures(name: str) -> None:
    """Names in the alphabet of base64 stay names."""
    assert not is_inline(name)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300) | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["bytes", "path", "url"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    anything
    | st.builds(str.__add__, st.sampled_from(["data:", "file://", "~", "http://", "/", "iVBORw0KGgo"]), st.text())
)
def test_any_image(image: Any) -> None:
    """Whatever stands for an image, it is a picture or one row's error, and its size is known or not."""
    found = beside(image, Path("/nowhere"))
    read_size(found)
    with contextlib.suppress(SampleError):
        models.open_image(found, "rows row 3")


def test_other_data_urls() -> None:
    """A data URL without base64, or with another thing in it, is a bad row that says so."""
    assert "no base64" in refusal("data:image/svg+xml,%3Csvg%3E")
    assert "no base64" in refusal("data:" + "x" * 5000)
    refusal("data:text/plain;base64,aGVsbG8=")


def test_a_picture_reads_like_its_file(tmp_path: Path) -> None:
    """The same bytes make the same picture, whatever they come in."""
    path = tmp_path / "a.png"
    picture(9, 7).save(path)
    text = base64.b64encode(path.read_bytes()).decode()

    assert models.open_image(text, "row").tobytes() == models.open_image(str(path), "row").tobytes()


def test_rows_of_bad_images(tmp_path: Path, pipe: Path, encoder: Callable[..., models.Encoder]) -> None:
    """In a file of rows each bad image is an error of its row, by its number; the rows between them are learned."""
    (tmp_path / "good.png").write_bytes(bytes_of("PNG", 40))
    (tmp_path / "damaged.avif").write_bytes(bytes_of("AVIF", 40)[:-9])
    (tmp_path / "words.jpg").write_text("no picture")
    text = base64.b64encode(bytes_of("JPEG", 200)).decode()
    bad = [
        pipe.name,
        ".",
        "damaged.avif",
        "words.jpg",
        "x" * 9000,
        text[:401],
        "data:image/png;base64,AAAA",
        "~nosuchuser/a",
    ]
    bad += ["a\0b", "http://example.com/a.png", "none.png"]
    rows = [{"image": name, "question": "q", "answer": "a"} for one in bad for name in (one, "good.png", text)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    train, _ = read_rows(DataSection(path=str(path)))
    encode = encoder("qwen3_vl")

    for number in range(len(rows)):
        if number % 3:
            assert encode(train[number]).image_sizes == ((40 if number % 3 == 1 else 200, 7),)
            continue
        with pytest.raises(SampleError, match=rf"^rows\.jsonl train row {number}: cannot read the image ") as caught:
            encode(train[number])
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "there", "how"),
    [
        ("reef/img_1.jpg", "reef/IMG_1.JPG", "in another case"),
        ("reef/IMG_1.jpg", "reef/IMG_1.JPG", "in another case"),
        ("reef\\a.png", "reef/a.png", "with slashes between folders"),
        (".\\a.png", "a.png", "with slashes between folders"),
        ("reef/gru\u0308n.png", "reef/gr\u00fcn.png", "in another Unicode form"),
        ("reef/gr\u00fcn.png", "reef/gru\u0308n.png", "in another Unicode form"),
        ("reef/a", "reef/a.jpg", "with an ending"),
        ("reef/a.jpg", "reef/a.jpeg", "with another ending"),
        (" a.png ", "a.png", "without spaces around it"),
    ],
)
def test_a_file_that_is_meant_is_found(tmp_path: Path, name: str, there: str, how: str) -> None:
    """Lists of names come from other systems and programs than the files; the bad row names the file."""
    (tmp_path / "reef").mkdir()
    (tmp_path / there).write_bytes(bytes_of("PNG"))
    found = find_alike(tmp_path / name)

    assert found is not None
    assert (found[0].resolve(), found[1]) == ((tmp_path / there).resolve(), how)
    assert refusal(str(tmp_path / name)).endswith(f"{Path(there).name}, written {how}")


@pytest.mark.parametrize("name", ["b.png", "/", "nowhere/a.png", "a.b.c", "\\", " .", ". "])
def test_other_files_are_not_offered(tmp_path: Path, name: str) -> None:
    """A file that is not there under a name like it stays a file that is not there."""
    (tmp_path / "a.png").write_bytes(bytes_of("PNG"))

    assert find_alike(tmp_path / name) is None
