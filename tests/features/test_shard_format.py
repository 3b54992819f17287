"""The format of a shard: arrays come back bit for bit, and neither a header nor a sum is believed."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.features.shards import entry, is_equal, opened, written
from vlora.features import shard_format

DTYPES = [mlx for mlx, _ in shard_format.TYPES.values()]


@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
def test_arrays_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, specs: list[Any]) -> None:
    """Any type and shape, bfloat16, scalars, empty and transposed arrays among them."""
    folder = tmp_path_factory.mktemp("shards")
    arrays = {}
    with mx.stream(mx.cpu):
        for number, (dtype, shape, turned) in enumerate(specs):
            value = (mx.arange(int(np.prod(shape))) % 7).reshape(shape).astype(dtype)
            arrays[str(number)] = value.T if turned else value
        mx.eval(arrays)
        first = opened(folder)
        first.add("key", arrays)

        assert is_equal(first.read("key"), arrays)
        first.flush()
        assert is_equal(first.read("key"), arrays)
        assert is_equal(opened(folder).read("key"), arrays)


def test_is_what_safetensors_readers_read(tmp_path: Path) -> None:
    """The files are ordinary safetensors."""
    subject = opened(tmp_path)
    subject.add("key", {"a": mx.array([1.5, 2.5], dtype=mx.bfloat16)})
    subject.flush()
    (file,) = tmp_path.rglob("*.safetensors")

    loaded: Any = mx.load(str(file))

    assert mx.array_equal(loaded["key:a"], mx.array([1.5, 2.5], dtype=mx.bfloat16))


def test_a_forged_shard_is_not_read(tmp_path: Path) -> None:
    """Right in all that can be seen, but made without the user's secret."""
    (tmp_path / "forger").mkdir()
    forger, file = written(tmp_path / "forger")
    subject, own = written(tmp_path / "own")
    own.unlink()
    # As if the forger knew the folder.
    shutil.copy(file, own)
    after = opened(tmp_path / "own")

    assert forger.shards.path.name != subject.shards.path.name
    assert after.read("key") is None
    assert ["other bytes than were written" in note for note in after.notes] == [True]


@given(st.data())
def test_no_header_is_believed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever stands in a header that fits its file: an entry is the right one, or is not there."""
    folder = tmp_path_factory.mktemp("shards")
    _, file = written(folder)
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    numbers = st.integers(-(2**65), 2**65) | st.integers(-2, 5000) | st.just(True)
    anything = numbers | st.none() | st.text(max_size=3) | st.lists(numbers, max_size=3) | st.floats()
    name = data.draw(st.sampled_from(sorted(header)))
    part = data.draw(st.sampled_from(sorted(header[name])))
    header[name][part] = data.draw(anything)
    text = json.dumps(header).encode()
    if data.draw(st.booleans()):
        text = data.draw(
            st.sampled_from([b"[" * 200_000, b"null", b"[]", b'{"__metadata__": {}}', b"\xff", b"1" * 5000])
        )
    claimed = data.draw(st.sampled_from([len(text), 2**63, len(text) + len(content)]))
    file.write_bytes(claimed.to_bytes(8, "little") + text + content[8 + length :])
    found = opened(folder).read("key")

    assert found is None or is_equal(found, entry(1))
