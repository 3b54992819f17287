"""Models of the hub: described first, downloaded when needed, of one commit. No network: the hub is a folder."""

import fnmatch
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx_vlm.utils
import pytest

from tests.training import picture
from vlora import models
from vlora.cli.main import main
from vlora.errors import ModelError
from vlora.recipe.schema import ModelSection

COMMIT = "8a1f"
NAME = "someone/tiny"


@attrs.define
class Hub:
    """Stands for `snapshot_download`.

    Attributes:
        published: The folder of the model.
        cache: Where snapshots lie, each in a folder named by its commit.
        revisions: What was asked for, call by call.
    """

    published: Path
    cache: Path
    revisions: list[str | None] = attrs.field(factory=list)

    def download(self, repo_id: str, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        """Copy what matches a pattern into the snapshot of the only commit."""
        assert repo_id == NAME
        self.revisions.append(revision)
        snapshot = self.cache / COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in self.published.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, snapshot / file.name)
        return str(snapshot)

    @property
    def weights(self) -> list[Path]:
        """List the weights that have been downloaded."""
        return list(self.cache.rglob("*.safetensors"))


@pytest.fixture
def hub(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Put a hub with one model in the place of the real one."""
    made = Hub(checkpoint("qwen3_vl"), tmp_path / "cache")
    monkeypatch.setattr(mlx_vlm.utils, "snapshot_download", made.download)
    return made


def test_inspect_downloads_no_weights(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Looking at rows takes the configuration and the processor, and leaves gigabytes where they are."""
    picture(48, 32).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.png", "question": "What?", "answer": "red"}) + "\n")
    sets = [f"model.path={NAME}", f"data.path={tmp_path / 'rows.jsonl'}"]

    assert main(["inspect", *(part for value in sets for part in ("--set", value))]) == 0

    assert "1 row: it can be learned from" in capsys.readouterr().out
    assert hub.revisions == [None]
    assert not hub.weights


def test_weights_are_downloaded_when_needed(hub: Hub) -> None:
    """They come with the commit that the configuration was read from."""
    section = ModelSection(path=NAME)
    files = models.find_model(section)
    assert files.path.name == COMMIT
    assert not hub.weights

    backbone, _ = models.load_backbone(files, section)

    assert hub.revisions == [None, COMMIT]
    assert hub.weights
    assert backbone.module.config.model_type == "qwen3_vl"


@pytest.mark.usefixtures("hub")
def test_weights_that_do_not_come_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that fails is an error with the model's name."""
    section = ModelSection(path=NAME)
    files = models.find_model(section)

    def fail(**_: Any) -> str:
        msg = "the connection broke"
        raise OSError(msg)

    monkeypatch.setattr(mlx_vlm.utils, "snapshot_download", fail)
    with pytest.raises(ModelError, match=f"cannot load the weights of '{NAME}': the connection broke"):
        models.load_backbone(files, section)


def test_folders_are_not_looked_up(hub: Hub) -> None:
    """A local folder is never sent to the hub."""
    files = models.find_model(ModelSection(path=str(hub.published)))
    assert files.hub_id is None
    assert not hub.revisions
