"""Checksums in the headers of files of arrays."""

from pathlib import Path

import mlx.core as mx
import pytest

from vlora.output.checksums import BLANK, BLOCK_BYTES, FIELD, SEAL, is_damaged, seal


def write(path: Path, size: int = 100, notes: dict[str, str] | None = None) -> Path:
    """Write an array, with room for a checksum unless notes are given."""
    mx.save_safetensors(str(path), {"a": mx.arange(size)}, metadata=SEAL if notes is None else notes)
    return path


@pytest.mark.parametrize("size", [1, BLOCK_BYTES // 4 + 10], ids=["one block", "two blocks"])
def test_a_sealed_file_is_whole(size: int, tmp_path: Path) -> None:
    """Its checksum stands where there was room for it, and its arrays are what they were."""
    file = write(tmp_path / "a.safetensors", size)
    assert is_damaged(file)

    seal(file)

    assert not is_damaged(file)
    arrays, notes = mx.load(str(file), return_metadata=True)
    assert isinstance(notes, dict)
    assert isinstance(arrays, dict)
    assert notes[FIELD] != BLANK
    assert mx.array_equal(arrays["a"], mx.arange(size))


@pytest.mark.parametrize("place", [-1, -200, 40], ids=["its last byte", "a byte of its array", "a byte of its header"])
def test_another_byte_is_damage(place: int, tmp_path: Path) -> None:
    """In the arrays or in the header."""
    file = write(tmp_path / "a.safetensors")
    seal(file)
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)

    assert is_damaged(file)


def test_older_files_are_not_judged(tmp_path: Path) -> None:
    """A file without a checksum, and one that is no file of arrays at all."""
    (tmp_path / "short").write_bytes(b"abc")

    assert not is_damaged(write(tmp_path / "a.safetensors", notes={"format": "mlx"}))
    assert not is_damaged(tmp_path / "short")


def test_a_part_of_a_file_is_not_sealed(tmp_path: Path) -> None:
    """The disk was full, and the system has not said so."""
    file = write(tmp_path / "a.safetensors")
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(OSError, match="bytes of it were written"):
        seal(file)
