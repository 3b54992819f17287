"""Files of weights: named as the hub does, none larger than asked but for single arrays."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from tests.arrays import load_arrays
from vlora.export.shards import INDEX_NAME, Rows, ShardWriter
from vlora.features.shard_format import NAMES
from vlora.system.safetensors_header import read_header, read_metadata


def write(folder: Path, sizes: list[int], largest: int) -> list[Path]:
    folder.mkdir()
    writer = ShardWriter(folder, "pt", largest)
    writer.expect(f"a{number}" for number in range(len(sizes)))
    for number, size in enumerate(sizes):
        writer.add(f"a{number}", mx.full((size,), number, dtype=mx.uint8))
    return writer.close()


def test_one_file_has_no_index(tmp_path: Path) -> None:
    """It has the name that every library looks for."""
    (file,) = write(tmp_path / "a", [10, 20], 100)
    assert file.name == "model.safetensors"
    assert not (tmp_path / "a" / INDEX_NAME).exists()
    assert read_metadata(file) == {"format": "pt"}


def test_several_files(tmp_path: Path) -> None:
    """Each array is where the index says; sizes are summed."""
    files = write(tmp_path / "a", [40, 60, 50, 300, 1], 100)
    assert [file.name for file in files] == [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    index = json.loads((tmp_path / "a" / INDEX_NAME).read_text())
    assert index["metadata"] == {"total_size": 451, "total_parameters": 451}
    for name, place in index["weight_map"].items():
        assert load_arrays(tmp_path / "a" / place)[name][0].item() == int(name[1:])


def test_arrays_of_all_types_and_shapes(tmp_path: Path) -> None:
    """They are read as they were given, laid out otherwise or empty, and begin where readers expect it."""
    arrays = {name: mx.array([[1, 0, 1], [0, 1, 1]]).astype(dtype) for dtype, name in NAMES.items() if name != "F64"}
    arrays |= {"turned": mx.arange(6.0).reshape(2, 3).T, "point": mx.array(2.5), "empty": mx.zeros((0, 4))}
    writer = ShardWriter(tmp_path, "mlx")
    writer.expect(arrays)
    for name, array in arrays.items():
        writer.add(name, array)
    (file,) = writer.close()
    found = load_arrays(file)
    assert found.keys() == arrays.keys()
    assert all(found[name].dtype == array.dtype for name, array in arrays.items())
    assert all(mx.array_equal(found[name], array) for name, array in arrays.items())
    assert min(entry.begin for entry in read_header(file).values()) % 8 == 0


def test_rows_that_come_in_blocks(tmp_path: Path) -> None:
    """They are one array; too few of them are told."""
    whole = mx.random.normal((7, 3), key=mx.random.key(1)).astype(mx.bfloat16)
    writer = ShardWriter(tmp_path, "mlx")
    writer.add("a", Rows(whole.dtype, whole.shape, (whole[start : start + 3] for start in (0, 3, 6))))
    (file,) = writer.close()
    assert mx.array_equal(load_arrays(file)["a"], whole)
    with pytest.raises(ValueError, match="found 18 bytes, expected 42"):
        ShardWriter(tmp_path, "mlx").add("a", Rows(whole.dtype, whole.shape, (whole[:3],)))


def test_arrays_that_were_not_expected(tmp_path: Path) -> None:
    """Each begins a file where the open one has no room for its name."""
    writer = ShardWriter(tmp_path, "pt")
    writer.expect(["a", "b"])
    for name in ("a", "c", "b"):
        writer.add(name, mx.ones(2))
    files = writer.close()
    assert [sorted(load_arrays(file)) for file in files] == [["a", "c"], ["b"]]


def test_nothing_is_held(tmp_path: Path) -> None:
    """What was given is on its way to the disk, though its file may get more."""
    writer = ShardWriter(tmp_path, "pt")
    writer.expect("abc")
    before = mx.get_active_memory()
    for name in "abc":
        array = mx.ones(1 << 20)
        mx.eval(array)
        writer.add(name, array)
        del array
        assert mx.get_active_memory() - before < 1 << 20
    assert len(writer.close()) == 1
