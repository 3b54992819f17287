"""Files that the tests of readers write, and their rows as text."""

from pathlib import Path

from vlora.data.readers.text_table import TextTable
from vlora.data.values import Row


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_in(table: TextTable) -> list[Row]:
    return [table[index] for index in range(len(table))]
