"""Repositories of the hub: read as folders are, from the cache without a connection, and not waited for."""

import os
import time
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from tests.data.data_sets import problem_of, read, write_jsonl
from tests.data.readers.folders import AWKWARD, answers_of, awkward_rows, write_card, write_csv, write_text_source
from vlora.errors import SampleError


@pytest.mark.parametrize("kind", ["folder of jsonl", "folder of csv", "metadata.csv"])
def test_repositories_are_read_as_folders_are(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of the hub has the same readers; its images are only those that it has itself."""
    (tmp_path / "data").mkdir()
    folder = write_text_source(kind, tmp_path / "data")
    if kind.startswith("metadata"):
        builder = datasets.load_dataset_builder("imagefolder", data_dir=str(folder))
    else:
        builder = datasets.load_dataset_builder(str(folder))
    asked = []

    def build(path: str, config: str | None) -> Any:
        asked.append((path, config))
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", build)
    rows = read("someone/rows", config="small")
    assert answers_of(rows) == AWKWARD
    assert rows.folder is None
    assert asked == [("someone/rows", "small")]

    if kind.startswith("metadata"):
        write_csv(folder / "metadata.csv", [{"file_name": "../../etc/passwd", "question": "q", "answer": "a"}])
        with pytest.raises(SampleError, match=r"no file '\.\./\.\./etc/passwd' beside metadata"):
            read("someone/rows")[0]


@pytest.mark.parametrize("has_tables", [False, True])
def test_repositories_without_a_connection(has_tables: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been downloaded is read as written; tables with guessed types in the cache are not taken for it."""
    folder = write_text_source("folder of jsonl", tmp_path)
    if has_tables:
        cache = tmp_path / "cache"
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        made = cache / "someone___rows" / "default" / "0.0.0" / "abc"
        datasets.load_dataset_builder(str(folder), cache_dir=str(tmp_path / "other")).download_and_prepare(str(made))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert ("connect to the hub once more" if has_tables else "on the Hub") in problem_of("someone/rows")

    for commit in ("a", "b"):
        snapshot = tmp_path / "hub" / "datasets--someone--rows" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        write_jsonl(snapshot / "train.jsonl", awkward_rows()[: None if commit == "b" else 1])
        os.utime(snapshot, (ord(commit), ord(commit)))
    assert answers_of(read("someone/rows")) == AWKWARD


def test_a_hub_that_is_not_to_be_reached(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It is asked once, without the retries of its client, and nobody but vlora says so; the client stays as it was."""
    for place in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    # Nothing listens there.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it is asked again"))

    found = problem_of("someone/rows")

    assert "there is no such file or folder, and the hub is not to be reached (" in found
    assert not any(capfd.readouterr())
    assert (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_settings_of_repositories(tmp_path: Path) -> None:
    """What a repository says of its files is obeyed, or refused by name."""
    write_csv(tmp_path / "rows.csv", awkward_rows(), delimiter="|")
    write_card(tmp_path, "  sep: '|'\n")
    assert answers_of(read(tmp_path)) == AWKWARD

    for setting in ("skiprows: 2", "encoding: latin-1", 'quotechar: "\'"', "sep: '||'"):
        write_card(tmp_path, f"  {setting}\n")
        problem = problem_of(tmp_path)
        assert problem.startswith("data.path: ")
        assert "its own settings say" in problem
