"""JSON files that users bring are refused in a sentence that names file, key, value and what is expected."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.load.test_schemas import VALUES
from vlora.errors import ModelError
from vlora.models.load.documents import read_object

DEEP = "[" * 100_000 + "]" * 100_000


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    """Whatever JSON can say comes back as it is."""
    path = tmp_path_factory.mktemp("json") / "any.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert read_object(path, ModelError, "model.path") == value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON"),
        (b'{"a": 1', "is not JSON"),
        (b'{"a": 1}}', "is not JSON"),
        (b"null", "no object"),
        (b'["a"]', "no object"),
        (DEEP.encode(), "nested too deeply"),
        (b'{"a": ' + DEEP.encode() + b"}", "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "huge number"),
        (b'{"a": "\xe4"}', "not UTF-8"),
        ("\ufeff{}".encode(), "byte order mark"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_object_is_refused(data: bytes | None, said: str, tmp_path: Path) -> None:
    """One line, with the recipe's key and the file."""
    path = tmp_path / "any.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"^model\.path: {path} .*{said}[^\n]*$"):
        read_object(path, ModelError, "model.path")


def test_nothing_is_waited_for(tmp_path: Path) -> None:
    """A pipe, a folder and a link to itself are no files."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to("loop.json")
    for path in tmp_path.iterdir():
        with pytest.raises(ModelError, match=path.name):
            read_object(path, ModelError, "model.path")
