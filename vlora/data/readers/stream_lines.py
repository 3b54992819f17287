"""JSON Lines as a stream: a row is a line, found by its first byte and read as it is written."""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import attrs

from ...errors import SampleError
from ...system.written_json import explain_json, parse_json
from ..values import Row
from .json_files import read_object
from .stream import Found
from .stream_files import StreamFile
from .text_table import check_encoding, describe_bytes


@attrs.frozen(eq=False)
class LinesReader:
    """The rows of a JSON Lines file.

    Attributes:
        file: The file.
    """

    file: StreamFile
    kinds: Mapping[str, str] = attrs.field(factory=dict, init=False)

    def find(self, first: Found | None = None, *, keeps: bool = True) -> Iterator[Found]:
        """Yield the lines; blank ones at the end are none."""
        with self.file.open() as file:
            number, offset = (0, self._begin(file)) if first is None else first[:2]
            file.seek(offset)
            blank: list[Found] = []
            while line := file.readline():
                found = Found(number, offset, line if keeps and self.file.folder is None else None)
                number, offset = number + 1, offset + len(line)
                if not line.strip():
                    blank.append(found)
                    continue
                yield from blank
                blank.clear()
                yield found

    def _begin(self, file: BinaryIO) -> int:
        """Find the first byte of the text.

        Raises:
            ValueError: It is in another encoding, or one JSON document.
        """
        start = check_encoding(file.read(4))
        file.seek(start)
        line, is_named = file.readline(), self.file.name.lower().endswith(".json")
        is_document = line.lstrip()[:1] == b"["
        if is_named and not is_document and line.strip():
            try:
                parse_json(line.decode())
                is_document = not file.readline()
            except ValueError:
                is_document = True
        if is_document:
            msg = "it is one JSON document, which is not streamed; write each row as an object in a line of its own"
            raise ValueError(msg)
        return start

    def keep(self, number: int, offset: int) -> Any:
        """Read a line of a file that is not on this machine."""
        del number
        return self._line(offset) if self.file.folder is None else None

    def read(self, number: int, offset: int, kept: Any = None) -> Row:
        """Read a row.

        Raises:
            SampleError: It is no row; the message names the line.
        """
        try:
            return read_object(_decode(kept or self._line(offset)))
        except ValueError as error:
            msg = f"line {self.line(number, offset):,} of {self.file.name}: {explain_json(error)}"
            raise SampleError(msg) from None

    def line(self, number: int, offset: int) -> int:
        """Say on which line a row is, from 1: every line is one."""
        del offset
        return number + 1

    def _line(self, offset: int) -> bytes:
        with self.file.open() as file:
            file.seek(offset)
            return file.readline()


def _decode(line: bytes) -> str:
    try:
        return line.rstrip(b"\n").decode()
    except UnicodeDecodeError as error:
        raise ValueError(describe_bytes(error)) from None
