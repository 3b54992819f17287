"""Headers of safetensors files: what is read is what was written, and what is let through MLX can read."""

import json
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.arrays import load_arrays
from vlora.system.safetensors_header import HeaderError, read_header, read_metadata

TYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "I32": mx.int32, "U8": mx.uint8, "BOOL": mx.bool_}


def write(path: Path, header: Any, data: bytes = bytes(16)) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(sorted(TYPES)), st.lists(
    st.integers(0, 4), max_size=3)), max_size=4).filter(lambda arrays: "__metadata__" not in arrays))  # fmt: skip
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]) -> None:
    """Every array that MLX has written is there with its type and its shape."""
    path = tmp_path_factory.mktemp("header") / "a.safetensors"
    mx.save_safetensors(
        str(path), {name: mx.zeros(shape, TYPES[kind]) for name, (kind, shape) in arrays.items()}, {"note": "x"}
    )
    found = read_header(path)
    assert {name: (entry.dtype, list(entry.shape)) for name, entry in found.items()} == {
        name: (kind, shape) for name, (kind, shape) in arrays.items()
    }


@given(st.data())
def test_what_is_let_through_can_be_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A byte that was changed is found, or changes nothing that MLX stumbles over."""
    path = tmp_path_factory.mktemp("header") / "a.safetensors"
    mx.save_safetensors(str(path), {"a": mx.arange(6).reshape(2, 3), "b": mx.ones((4,), mx.float16)})
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 3, place]))])
    try:
        found = read_header(path)
    except HeaderError:
        return
    try:
        arrays = load_arrays(path)
        mx.eval(arrays)
    except RuntimeError:
        # Of MLX's own types only: safetensors has more.
        return
    assert {name: tuple(value.shape) for name, value in arrays.items()} == {n: e.shape for n, e in found.items()}


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_offsets": [0, 20]}, "4 bytes beyond the file's end"),
        ({"data_offsets": [0, 8]}, "has 8 bytes, not those of its shape"),
        ({"data_offsets": [-4, 12]}, "no place in the file"),
        ({"data_offsets": [16, 0]}, "no place in the file"),
        ({"data_offsets": [0, 2**64]}, "no place in the file"),
        ({"data_offsets": None}, "no place in the file"),
        ({"shape": [-2, -2]}, "has no shape"),
        ({"shape": [2, True]}, "has no shape"),
        ({"shape": "4"}, "has no shape"),
        ({"shape": [2**40, 2**40]}, "not those of its shape"),
        ({"dtype": "F31"}, "no type that is known"),
        ({"dtype": ["F32"]}, "no type that is known"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    """The array is named, and what is wrong with it; without the change it is read."""
    assert read_header(write(tmp_path / "a", {"weight": ENTRY}))["weight"].shape == (2, 2)
    with pytest.raises(HeaderError, match=rf"'weight' .*{said}"):
        read_header(write(tmp_path / "a", {"weight": {**ENTRY, **change}}))


NONE = [b"", b"abc", struct.pack("<Q", 2**63), struct.pack("<Q", 9) + b"x" * 9, struct.pack("<Q", 2) + b"[]"]


@pytest.mark.parametrize("data", NONE)
def test_what_is_no_safetensors_is_refused(data: bytes, tmp_path: Path) -> None:
    """Neither a length that the file does not have nor a header that is no object is believed."""
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(HeaderError):
        read_header(tmp_path / "a")


def test_a_file_says_what_it_was_written_for(tmp_path: Path) -> None:
    """What a header says of the file is read; a file that says nothing has nothing to say."""
    path = tmp_path / "a.safetensors"
    mx.save_safetensors(str(path), {"x": mx.zeros(2)}, {"format": "pt"})
    assert read_metadata(path)["format"] == "pt"
    assert read_metadata(write(path, {})) == {}
