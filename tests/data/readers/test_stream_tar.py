"""WebDataset tar files: rows of members, long names, damaged archives, errors that name the member."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.data.streams import write_tar
from vlora.data.readers.stream import Drawn, Found, RowStream
from vlora.data.readers.stream_files import local_file
from vlora.data.readers.stream_tar import TarReader, find_members, make_row
from vlora.errors import SampleError


def rows_of(path: Path) -> list[object]:
    """Read all rows of an archive."""
    reader = TarReader(local_file(path, path.parent))
    return [reader.read(*row) for row in reader.find()]


def test_members_of_one_name_are_a_row(tmp_path: Path) -> None:
    """Text stays as it is written; hidden files and files without an ending are left out."""
    path = write_tar(
        tmp_path / "rows.tar",
        [
            ("a/1.jpg", b"one"),
            ("a/1.json", '{"question": "q", "price": 1.50}'),
            ("README", "x"),
            ("a/._2.jpg", b"hidden"),
            ("a/2.cls", "7\n"),
            ("a/2.PNG", b"two"),
            ("b/2.txt", "a caption\n"),
            ("b/2.left.jpg", b"l"),
            ("b/2.right.jpg", b"r"),
            ("b/2.npy", b"n"),
        ],
    )
    first, second, third = rows_of(path)

    assert first == {"question": "q", "price": 1.5, "image": {"bytes": b"one", "path": "a/1.jpg"}}
    assert first["price"].spelling == "1.50"
    assert second == {"label": "7", "image": {"bytes": b"two", "path": "a/2.PNG"}}
    assert third == {
        "text": "a caption",
        "npy": b"n",
        "images": [{"bytes": b"l", "path": "b/2.left.jpg"}, {"bytes": b"r", "path": "b/2.right.jpg"}],
    }


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_row_is_found_again(tmp_path: Path, kind: int) -> None:
    """By its first header, long names included; folders and links are no members."""
    stem = "f" * 90 + "/" + "n" * 90 if kind == tarfile.USTAR_FORMAT else "é" * 150
    path = write_tar(tmp_path / "rows.tar", [(f"{stem}{n}.txt", f"{n}" * 700) for n in range(5)], format=kind)
    with tarfile.open(path, "a", format=kind) as archive:
        archive.addfile(tarfile.TarInfo("folder.d"))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "x" * (90 if kind == tarfile.USTAR_FORMAT else 120)
        archive.addfile(link)
    reader = TarReader(local_file(path, tmp_path))
    found = list(reader.find())

    assert [reader.read(*row)["text"] for row in found[:5]] == [f"{n}" * 700 for n in range(5)]
    for place, row in enumerate(found):
        assert list(reader.find(Found(row.number, row.offset))) == found[place:]


def test_archives_behind_one_another_are_one(tmp_path: Path) -> None:
    """Rows behind the end of the first are not lost, with or without blocks of zeros between."""
    one, other = write_tar(tmp_path / "1.tar", [("1.txt", "a")]), write_tar(tmp_path / "2.tar", [("2.txt", "b")])
    both = tmp_path / "both.tar"
    both.write_bytes(one.read_bytes() + other.read_bytes()[:1024])

    assert rows_of(both) == [{"text": "a"}, {"text": "b"}]


def test_damaged_archives_are_refused_where_they_are_damaged(tmp_path: Path) -> None:
    """The rows before are there; nothing ends in silence."""
    path = write_tar(tmp_path / "rows.tar", [(f"{n}.txt", "x" * 600) for n in range(3)])
    data = path.read_bytes()
    for damaged, message in (
        (data[: 2 * 1536 + 700], r"ends within its member 2\.txt"),
        (data[:1536] + b"z" * 512 + data[2048:], "no header of a tar file at byte 1,536"),
        (data[: 1536 + 100], "no header of a tar file at byte 1,536"),
    ):
        found: list[str] = []
        with pytest.raises(ValueError, match=message):
            found.extend(member.name for member in find_members(io.BytesIO(damaged)))
        assert found == ["0.txt", "1.txt"][: len(found)]
        assert found


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.json", b"{broken")], r"member 1\.json: .*\(in rows\.tar\)"),
        ([("1.json", b'"text"')], r"member 1\.json: expected an object"),
        ([("1.json", b'{"text": "a"}'), ("1.txt", b"b")], r"member 1\.txt: gives the column 'text'"),
        ([("1.txt", b"\xff")], r"member 1\.txt: found the bytes ff"),
        ([("1.jpg", b"a"), ("1.json", b'{"images": ["a", "b"]}')], r"names 2 images in the column 'images', and has 1"),
    ],
)
def test_errors_name_member_and_archive(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    """A bad row is an error of that row only."""
    path = write_tar(tmp_path / "rows.tar", [*members, ("2.txt", b"fine")])
    reader = TarReader(local_file(path, tmp_path))
    bad, fine = reader.find()

    with pytest.raises(SampleError, match=message):
        reader.read(*bad)
    assert reader.read(*fine) == {"text": "fine"}


def test_pictures_among_the_members_are_those_that_the_row_names() -> None:
    """Their names elsewhere are given up; a list is the messages of a conversation."""
    row = make_row([("1.jpg", b"a"), ("1.json", b'{"image": "images/1.jpg", "text": "t"}')])

    assert row == {"text": "t", "image": {"bytes": b"a", "path": "1.jpg"}}
    assert make_row([("1.json", b'[{"role": "user"}]')]) == {"messages": [{"role": "user"}]}


def test_rows_that_are_gone_are_errors_and_no_end(tmp_path: Path) -> None:
    """An archive that has become shorter since its rows were found ends no iterator in silence."""
    write_tar(tmp_path / "rows.tar", [(f"{n}.txt", b"text") for n in range(4)])
    stream = RowStream(files=[local_file(tmp_path / "rows.tar", tmp_path)], open_reader=TarReader)
    places = stream.head(4)
    write_tar(tmp_path / "rows.tar", [("0.txt", b"text")])

    assert stream.read(Drawn(places[0])) == {"text": "text"}
    assert stream.name_row(places[3]) == "rows.tar row 3"
    with pytest.raises(SampleError, match=r"rows\.tar.*has changed|has changed.*rows\.tar"):
        stream.read(Drawn(places[3]))
