"""W&B's offline files, read back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.tracked import make_answers, make_run
from vlora.errors import RecipeError
from vlora.trackers.tracker import ANSWER_COLUMNS
from vlora.trackers.wandb import Wandb

wandb = pytest.importorskip("wandb")

BLOCK = 32768


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield
    wandb.teardown()


def read_records(file: Path) -> Iterator[Any]:
    """Read a log in LevelDB's format: blocks of records, each with sum, length and kind before it."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield vars(wandb_internal_pb2)["Record"].FromString(whole)
            whole = b""


def read_run(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], list[str], list[int]]:
    """Give what was logged, the configuration, the runs' ids and the exit codes, of all files in the order of time."""
    # W&B's own process has written all when it has ended.
    wandb.teardown()
    history: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    ids, codes = [], []
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        for record in read_records(file):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                history.append({key: json.loads(text) for key, text in items.items() if not key.startswith("_")})
            elif kind == "run":
                ids.append(f"{record.run.project}/{record.run.run_id}")
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update if item.key}
            elif kind == "exit":
                codes.append(record.exit.exit_code)
    return history, config, ids, codes


@pytest.mark.parametrize(("ending", "code"), [("finished", 0), ("stopped", 0), ("failed", 1)])
def test_numbers_are_logged_offline(ending: Any, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With their steps and the recipe, and without a word on the screen."""
    tracker = Wandb.open()

    tracked = tracker.start(make_run(tmp_path))
    tracker.log({"loss": 1.5, "json_fields.größe": 0.25}, 10)
    tracker.log({"valid_loss": 1.25}, 20)
    tracker.end(ending)

    history, config, ids, codes = read_run(tmp_path)
    assert history == [{"loss": 1.5, "json_fields.größe": 0.25, "step": 10}, {"valid_loss": 1.25, "step": 20}]
    assert config["train.iters"] == 3
    assert config["data.path"] == "rows.jsonl"
    assert ids[0] == f"vlora/{tracked.key}"
    assert codes == [code]
    assert tracked.where.endswith("`wandb sync` sends it")
    assert capfd.readouterr().out == ""


def test_answers_are_a_table(tmp_path: Path) -> None:
    """Of rows and columns, logged over its step."""
    tracker = Wandb.open()
    tracker.start(make_run(tmp_path))
    tracker.show_answers(make_answers(), 20)
    tracker.end("finished")

    history, *_ = read_run(tmp_path)
    (line,) = history
    (file,) = (tmp_path / "wandb").rglob("answers_*.table.json")
    table = json.loads(file.read_text(encoding="utf-8"))
    assert line["step"] == 20
    assert table["columns"] == list(ANSWER_COLUMNS)
    assert table["data"] == [list(row) for row in make_answers().rows]


def test_a_run_that_goes_on_has_the_same_id(tmp_path: Path) -> None:
    """`wandb sync` joins the two folders, whatever steps are done anew."""
    first = Wandb.open()
    key = first.start(make_run(tmp_path, project="receipts")).key
    first.log({"loss": 1.5}, 10)
    first.log({"loss": 1.4}, 20)
    first.end("failed")

    second = Wandb.open()
    second.start(make_run(tmp_path, project="receipts", first_step=10, key=key))
    second.log({"loss": 1.3}, 20)
    second.end("finished")

    history, _, ids, _ = read_run(tmp_path)
    assert [(line["step"], line["loss"]) for line in history] == [(10, 1.5), (20, 1.4), (20, 1.3)]
    assert set(ids) == {f"receipts/{key}"}


def test_a_missing_key_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than asked for in the middle of a run."""
    monkeypatch.delenv("WANDB_MODE")
    wandb.teardown()

    with pytest.raises(RecipeError, match="'wandb' has no API key; run `wandb login` once, or set WANDB_MODE=offline"):
        Wandb.open()


def test_the_end_of_nothing() -> None:
    """A run that failed before it began ends quietly."""
    Wandb.open().end("failed")
