"""MLflow's files, read back."""

from pathlib import Path
from typing import Any

import pytest

from tests.trackers.tracked import make_answers, make_run
from vlora.errors import RecipeError
from vlora.trackers.mlflow import Mlflow

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    # The file store, which the small package has, asks for it.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


def read_metric(key: str, name: str) -> list[tuple[int, float]]:
    """Read the steps and values of a metric."""
    return [(each.step, each.value) for each in mlflow.MlflowClient().get_metric_history(key, name)]


@pytest.mark.parametrize(("ending", "status"), [("finished", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")])
def test_numbers_are_logged(ending: Any, status: str, tmp_path: Path) -> None:
    """With their steps, the recipe as parameters, and names as MLflow takes them."""
    tracker = Mlflow.open()

    key = tracker.start(make_run(tmp_path)).key
    tracker.log({"loss": 1.5, "json_fields.preis (€)/..": 0.25}, 10)
    tracker.log({"loss": 1.25}, 20)
    tracker.end(ending)

    run = mlflow.MlflowClient().get_run(key)
    assert read_metric(key, "loss") == [(10, 1.5), (20, 1.25)]
    assert read_metric(key, "json_fields.preis _____.") == [(10, 0.25)]
    assert run.data.params["train.iters"] == "3"
    assert run.data.params["data.shuffle"] == "True"
    assert (run.info.run_name, run.info.status) == ("first", status)
    assert mlflow.MlflowClient().get_experiment(run.info.experiment_id).name == "vlora"


def test_answers_are_a_file(tmp_path: Path) -> None:
    """Of its own for each round, among the run's artifacts."""
    tracker = Mlflow.open()
    key = tracker.start(make_run(tmp_path)).key
    tracker.show_answers(make_answers(), 20)
    tracker.end("finished")

    (file,) = (tmp_path / "mlruns").rglob("*.md")
    assert str(file).endswith(f"{key}/artifacts/answers/0000020-during.md")
    assert file.read_text(encoding="utf-8") == make_answers().write_table()


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path) -> None:
    """Whatever its recipe says now, its parameters stay."""
    first = Mlflow.open()
    key = first.start(make_run(tmp_path, project="receipts")).key
    first.log({"loss": 1.5}, 10)
    first.end("failed")

    second = Mlflow.open()
    assert second.start(make_run(tmp_path, project="receipts", first_step=10, key=key)).key == key
    second.log({"loss": 1.0}, 20)
    second.end("finished")

    assert read_metric(key, "loss") == [(10, 1.5), (20, 1.0)]
    assert mlflow.MlflowClient().get_run(key).info.status == "FINISHED"


def test_a_failure_in_the_other_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers after it, or at the end."""
    tracker = Mlflow.open()
    tracker.start(make_run(tmp_path))

    def fail(*_: Any, **__: Any) -> None:
        msg = "no server"
        raise ConnectionError(msg)

    monkeypatch.setattr(tracker.client, "log_batch", fail)

    def act() -> None:
        tracker.log({"loss": 1.0}, 1)
        tracker.end("finished")

    with pytest.raises(ConnectionError, match="no server"):
        act()


def test_a_place_that_cannot_be_written_to_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to set."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")

    with pytest.raises(RecipeError, match=r"'mlflow' cannot write to nonsense://here .*set MLFLOW_TRACKING_URI"):
        Mlflow.open()


def test_an_address_that_is_cut_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client says is cut after its secrets were hidden."""

    def fail() -> None:
        msg = f"{'x' * 130} postgresql://user:secret-that-is-long@example.org/runs"
        raise ConnectionError(msg)

    monkeypatch.setattr(mlflow, "MlflowClient", fail)

    with pytest.raises(RecipeError) as found:
        Mlflow.open()
    assert "secret" not in str(found.value)


def test_the_end_of_nothing() -> None:
    """A run that failed before it began ends quietly."""
    Mlflow.open().end("failed")
