"""A model's folder is looked at before its weights are read: what cannot be is refused, with the file's name."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlora import models
from vlora.errors import ModelError
from vlora.models.load.model_folder import blaming, check_weights
from vlora.recipe.schema import ModelSection

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "model"))


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path) -> str:
    """Say why a folder is refused before its weights are read."""
    section = ModelSection(path=str(folder))
    with pytest.raises(ModelError) as caught:
        models.load_processor(models.find_model(section), section)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_index(folder: Path, **files: str) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("config.json", {"text_config": [1]}, "text_config: found"),
        ("config.json", {"model_type": "no_such"}, "model_type: found 'no_such'"),
        ("config.json", {"model_type": None}, "model_type: found None"),
        ("config.json", {"image_token_id": "x"}, "image_token_id: found 'x', expected a number"),
        ("preprocessor_config.json", {"image_std": 0}, "image_std: found 0"),
        ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id: found"),
        ("tokenizer_config.json", {"chat_template": 3}, "chat_template: found 3"),
    ],
)
def test_a_wrong_value_is_named(name: str, values: dict[str, Any], said: str, folder: Path) -> None:
    """The file and the key are in the sentence."""
    change(folder, name, **values)
    assert f"{folder / name}: {said}" in refused(folder)


def test_what_is_no_model_is_said_once(tmp_path: Path) -> None:
    """A folder or a file without a model says so in one clause."""
    (tmp_path / "file").touch()
    for path, what in ((tmp_path, "the folder"), (tmp_path / "file", "the file")):
        found = (
            f"model.path: {what} {str(path)!r} is no model's, it has no config.json; give a model's folder or a hub id"
        )
        assert refused(path) == found
    missing = tmp_path / "missing"
    assert refused(missing) == f"model.path: there is no folder {str(missing)!r}; give a model's folder or a hub id"


def test_no_file_is_waited_for(folder: Path) -> None:
    """A pipe under the name of a file is refused, and a link that leads nowhere too."""
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    assert "tokenizer.json is no regular file" in refused(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("nowhere")
    assert "tokenizer.json is no regular file" in refused(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    """An empty vocabulary is not taken for the model's."""
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer (tokenizer.json" in refused(folder)


def test_what_its_own_code_raises_is_the_folders_fault(folder: Path) -> None:
    """A tokenizer that is none ends in a sentence that names the file, whatever its library raises."""
    (folder / "tokenizer.json").write_text("[[[")
    assert "tokenizer.json cannot be read" in refused(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-16")
    assert "tokenizer.json cannot be read" in refused(folder)
    for value in ("true", "3", "null", '"text"', "[1, 2]", '["text"]', "[]"):
        (folder / "tokenizer.json").write_text(value)
        assert f"tokenizer.json cannot be read (found {value}, expected an object)" in refused(folder)
    (folder / "tokenizer.json").write_text('{"model": {"type": "no such"}}')
    assert "no processor that can be loaded" in refused(folder)


def test_an_index_leads_into_the_folder_only(folder: Path) -> None:
    """Shards outside, absolute ones and missing ones are refused; one of another layout is passed over."""
    check_weights(folder)
    for shard in ("../other.safetensors", str(folder / "model.safetensors"), "a\0.safetensors", ".", ""):
        write_index(folder, a="model.safetensors", b=shard)
        with pytest.raises(ModelError, match=r"index\.json: weight_map: found"):
            check_weights(folder)
    write_index(folder, a="model.safetensors", b="model-2.safetensors")
    with pytest.raises(ModelError, match=r"names model-2\.safetensors, which is not there"):
        check_weights(folder)
    write_index(folder, a="model-1.safetensors", b="model-2.safetensors")
    check_weights(folder)


def test_weights_that_are_not_whole_are_named(folder: Path) -> None:
    """Every file that would be read is looked at, by its header alone."""
    shutil.copy(folder / "model.safetensors", folder / "second.safetensors")
    data = (folder / "second.safetensors").read_bytes()
    (folder / "second.safetensors").write_bytes(data[:-1])
    with pytest.raises(ModelError, match=r"second\.safetensors cannot be read: .* 1 bytes beyond"):
        check_weights(folder)
    (folder / "second.safetensors").rename(folder / "consolidated.safetensors")
    check_weights(folder)


def test_a_lack_of_memory_is_nobodys_fault(tmp_path: Path) -> None:
    """It is told as what it is, and what vlora itself has said of a folder stays as it was said."""
    full = RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory.")
    for error in (MemoryError("no room"), full, ModelError("said already")):
        with pytest.raises(type(error), match=re.escape(str(error))), blaming("cannot be", tmp_path):
            raise error
    said = r"^model\.path: cannot be: KeyError 'a'; mend it$"
    with pytest.raises(ModelError, match=said), blaming("cannot be", tmp_path, "mend it"):
        _ = dict[str, int]()["a"]
