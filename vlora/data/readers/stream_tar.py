"""WebDataset tar files as a stream: members of one name but for their endings are a row.

A row is found by the headers of its members, which are all that is read of it, and read from its first one on.
"""

import contextlib
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import attrs

from ...errors import SampleError
from ...recipe.columns import IMAGE_COLUMNS
from ...system.written_json import explain_json, parse_json
from ..values import Row
from .stream import Found
from .stream_files import StreamFile
from .text_table import describe_bytes

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""Endings of pictures."""

TEXTS = {"txt": "text", "cls": "label"}
"""Endings of texts, and the columns that they are."""

BLOCK = tarfile.BLOCKSIZE
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_PAX = re.compile(rb"(\d+) ([^=]+)=")


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: Its name.
        offset: The first byte of its headers.
        start: The first byte of what stands in it.
        size: How many bytes that are.
    """

    name: str
    offset: int
    start: int
    size: int

    @property
    def parts(self) -> tuple[str, str] | None:
        """Its key and its ending, up to and from the first dot of its last name; None of what is part of no row."""
        found = _NAME.fullmatch(self.name)
        return None if found is None else (found[1], found[2].lower())


@attrs.frozen(eq=False)
class TarReader:
    """The rows of an archive.

    Attributes:
        file: The archive.
    """

    file: StreamFile
    kinds: Mapping[str, str] = attrs.field(factory=dict, init=False)

    def find(self, first: Found | None = None, *, keeps: bool = True) -> Iterator[Found]:
        """Yield the rows.

        Raises:
            ValueError: The archive is damaged.
        """
        with self.file.open() as file:
            number, offset = (0, 0) if first is None else first[:2]
            for members in _rows(file, offset):
                kept = self._load(file, members) if keeps and self.file.folder is None else None
                yield Found(number, members[0].offset, kept)
                number += 1

    def keep(self, number: int, offset: int) -> Any:
        """Read the members of a row of a file that is not on this machine."""
        del number
        return self._members(offset) if self.file.folder is None else None

    def read(self, number: int, offset: int, kept: Any = None) -> Row:
        """Read a row.

        Raises:
            SampleError: It is no row; the message names the member.
        """
        del number
        try:
            return make_row(kept or self._members(offset))
        except ValueError as error:
            msg = f"{error} (in {self.file.name})"
            raise SampleError(msg) from None

    def key(self, offset: int) -> str | None:
        """Give what the members of a row are called but for their endings; None if that cannot be read, or is far."""
        if self.file.folder is None:
            return None
        with contextlib.suppress(OSError, ValueError), self.file.open() as file:
            member = next(find_members(file, offset), None)
            parts = None if member is None else member.parts
            return None if parts is None else parts[0]
        return None

    def _members(self, offset: int) -> list[tuple[str, bytes]]:
        with self.file.open() as file:
            members = next(_rows(file, offset), None)
            if members is None:
                msg = f"nothing stands at its byte {offset:,} any more; it has changed while rows of it were waiting"
                raise ValueError(msg)
            return self._load(file, members)

    def _load(self, file: BinaryIO, members: Sequence[Member]) -> list[tuple[str, bytes]]:
        found = []
        for member in members:
            file.seek(member.start)
            found.append((member.name, file.read(member.size)))
        return found


def make_row(members: Sequence[tuple[str, bytes]]) -> Row:
    """Make a row of members: names and what stands in them.

    The keys of a JSON object are columns, pictures are `image`, or `images` in the order of the members where there are
    several, `txt` is `text`, `cls` is `label`; other members are columns of their ending.

    Raises:
        ValueError: A member cannot be read, or two give one column; the message names the member.
    """
    row: dict[str, Any] = {}
    images: list[dict[str, Any]] = []
    for name, data in members:
        (_, ending), last = Member(name, 0, 0, 0).parts or ("", name), name.rpartition(".")[2].lower()
        if last in IMAGES:
            images.append({"bytes": data, "path": name})
            continue
        found = _read_json(name, data) if last == "json" else {TEXTS.get(ending, ending): _read(name, ending, data)}
        for column, value in found.items():
            if column in row:
                msg = f"member {name}: gives the column {column!r}, which another member has given; leave one out"
                raise ValueError(msg)
            row[column] = value
    if not images:
        return row
    named = {column: row.pop(column) for column in IMAGE_COLUMNS if row.get(column) is not None}
    for column, value in named.items():
        n_named = len(value) if isinstance(value, list) else 1
        if n_named != len(images):
            msg = (
                f"member {members[0][0]}: its row names {n_named} images in the column {column!r}, and has "
                f"{len(images)} among its members"
            )
            raise ValueError(msg)
    return row | ({"image": images[0]} if len(images) == 1 else {"images": images})


def _read(name: str, ending: str, data: bytes) -> Any:
    if ending not in TEXTS:
        return data
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        msg = f"member {name}: {describe_bytes(error)}"
        raise ValueError(msg) from None
    return text.strip() if ending == "cls" else text.removesuffix("\n").removesuffix("\r")


def _read_json(name: str, data: bytes) -> Mapping[str, Any]:
    try:
        found = parse_json(data.decode())
    except UnicodeDecodeError as error:
        msg = f"member {name}: {describe_bytes(error)}"
        raise ValueError(msg) from None
    except ValueError as error:
        msg = f"member {name}: {explain_json(error)}"
        raise ValueError(msg) from None
    if isinstance(found, list):
        return {"messages": found}
    if not isinstance(found, dict):
        msg = f"member {name}: expected an object with the row's columns, or a list of messages"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a bad call
    return found


def _rows(file: BinaryIO, offset: int) -> Iterator[list[Member]]:
    """Yield the members of each row from a byte on."""
    members: list[Member] = []
    key = ""
    for member in find_members(file, offset):
        parts = member.parts
        if parts is None:
            continue
        if members and parts[0] != key:
            yield members
            members = []
        key = parts[0]
        members.append(member)
    if members:
        yield members


def find_members(file: BinaryIO, offset: int = 0) -> Iterator[Member]:
    """Yield the files in an archive from a header on; archives behind one another are one.

    Raises:
        ValueError: A header is damaged, or the archive ends within a member.
    """
    n_bytes = file.seek(0, 2)
    begin, name, size = offset, "", -1
    while True:
        file.seek(offset)
        block = file.read(BLOCK)
        if not block:
            return
        if not any(block):
            offset = begin = offset + BLOCK
            continue
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            msg = f"no header of a tar file at byte {offset:,} ({error}); write the archive anew"
            raise ValueError(msg) from None
        start, n_inside = offset + BLOCK, info.size if size < 0 else size
        offset = start + -(-n_inside // BLOCK) * BLOCK
        if start + n_inside > n_bytes:
            msg = f"the archive ends within its member {name or info.name}; write it anew"
            raise ValueError(msg)
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            found_name, found_size = _read_extension(file, info.type, start, n_inside)
            name, size = found_name or name, size if found_size is None else found_size
            continue
        if info.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            continue
        if info.type in _REGULAR:
            yield Member((name or info.name).removeprefix("./"), begin, start, n_inside)
        begin, name, size = offset, "", -1


def _read_extension(file: BinaryIO, kind: bytes, start: int, size: int) -> tuple[str, int | None]:
    """Read the name, and the size, that a header gives the member behind it."""
    file.seek(start)
    data = file.read(size)
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), None
    found: dict[bytes, bytes] = {}
    place = 0
    while matched := _PAX.match(data, place):
        end = place + int(matched[1])
        found[matched[2]] = data[matched.end() : end - 1]
        if end <= place:
            break
        place = end
    name = found.get(b"path", b"").decode("utf-8", "surrogateescape")
    return name, int(found[b"size"]) if b"size" in found else None
