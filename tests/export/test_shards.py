"""Files of weights: named as the hub does, none larger than asked but for single arrays."""

import json
from pathlib import Path

import mlx.core as mx

from tests.arrays import load_arrays
from vlora.export.shards import INDEX_NAME, ShardWriter
from vlora.system.safetensors_header import read_metadata


def write(folder: Path, sizes: list[int], largest: int) -> list[Path]:
    folder.mkdir()
    writer = ShardWriter(folder, "pt", largest)
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
