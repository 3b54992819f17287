"""Runs beside one another: what differs, which is better in what, and curves over each other."""

import shutil
from pathlib import Path

import pytest

from tests.report.run.test_run_files import START, write_run
from tests.report.run.test_run_page import make_run
from vlora.report.run.comparison import Comparison, Row, compare_runs, name_folders
from vlora.report.run.run_files import RunError


def two_runs(folder: Path) -> Comparison:
    """Compare two runs of different length, rate and rank."""
    make_run(folder / "a", 300)
    make_run(folder / "b", 200, **{"optim.learning_rate": 1e-3, "lora.targets": ["mlp"], "output.path": "elsewhere"})
    return compare_runs([folder / "a", folder / "b" / "adapters.safetensors"])


def row(comparison: Comparison, name: str) -> Row:
    """Find a number by its name."""
    [found] = [row for row in comparison.numbers if row.name == name]
    return found


def test_what_differs_in_the_recipes(tmp_path: Path) -> None:
    """Keys that are equal are left out, and so is where the runs have written."""
    assert two_runs(tmp_path).recipe == (
        Row(name="lora.targets", cells=("[]", '["mlp"]')),
        Row(name="optim.learning_rate", cells=("2e-05", "0.001")),
    )


def test_which_is_better(tmp_path: Path) -> None:
    """Of losses and times the lower one, of scores the higher one; of equal ones neither."""
    found = two_runs(tmp_path)

    assert row(found, "last train loss") == Row(name="last train loss", cells=("0.0968", "0.1429"), best=0)
    assert row(found, "best ANLS") == Row(name="best ANLS", cells=("0.9967", "0.9950"), best=0)
    assert row(found, "time") == Row(name="time", cells=("5 min 00 s", "3 min 20 s"), best=1)
    assert row(found, "peak memory, GB").best is None
    assert row(found, "steps").cells == ("300", "200")
    assert not [row.name for row in found.numbers if not any(row.cells)]


def test_what_is_written_alike_is_alike(tmp_path: Path) -> None:
    """A difference that the page does not show makes no run the better one."""
    for name, peak in (("a", 0.1041), ("b", 0.1039)):
        write_run(tmp_path / name, {"step": 1, "loss": 1.0, "peak_memory_gb": peak})
    found = compare_runs([tmp_path / "a", tmp_path / "b"])

    assert row(found, "peak memory, GB") == Row(name="peak memory, GB", cells=("0.10", "0.10"), best=None)


def test_of_error_rates_the_lower_one_is_better(tmp_path: Path) -> None:
    """As the metric says."""
    for name, rates in (("a", (0.9, 0.2, 0.3)), ("b", (0.8, 0.4, 0.1))):
        write_run(tmp_path / name, *({"step": step, "eval_cer": rate} for step, rate in enumerate(rates)))
    found = compare_runs([tmp_path / "a", tmp_path / "b"])

    assert row(found, "best CER") == Row(name="best CER", cells=("0.2000", "0.1000"), best=1)
    assert row(found, "  at step").cells == ("1", "2")


def test_a_run_that_lacks_a_number(tmp_path: Path) -> None:
    """Has an empty place, and neither is better."""
    make_run(tmp_path / "a", 300)
    write_run(tmp_path / "b", START, {"step": 7, "loss": 3.0})
    found = compare_runs([tmp_path / "a", tmp_path / "b"])

    assert row(found, "best ANLS") == Row(name="best ANLS", cells=("0.9967", ""), best=None)
    assert [(line.name, bool(line.xs)) for line in found.charts[0].lines] == [("a", True), ("b", False)]
    assert ("data.path", ('"rows.jsonl"', "")) in [(row.name, row.cells) for row in found.recipe]


def test_curves_over_each_other(tmp_path: Path) -> None:
    """Losses first; each run is a line of every chart that it has something for."""
    charts = two_runs(tmp_path).charts

    assert [chart.title for chart in charts] == [
        "Validation loss",
        "Train loss, per report",
        "ANLS",
        "Learning rate",
        "Gradient norm",
        "Speed",
        "Memory",
    ]
    assert all([line.name for line in chart.lines] == ["a", "b"] for chart in charts)


def test_where_runs_differ_in_their_device_or_went_on(tmp_path: Path) -> None:
    """It is said; otherwise it is not."""
    assert not {"device", "went on behind"} & {row.name for row in two_runs(tmp_path / "same").numbers}
    write_run(tmp_path / "a", START, {**START, "step": 5}, {"step": 7, "loss": 3.0})
    write_run(tmp_path / "b", {**START, "device": "metal"}, {"step": 7, "loss": 3.0})
    found = compare_runs([tmp_path / "a", tmp_path / "b"])

    assert row(found, "device").cells == ("cpu, a chip", "metal, a chip")
    assert row(found, "went on behind").cells == ("5", "")


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    """One alone, one twice, one that is none."""
    folder = make_run(tmp_path / "a", 100).folder
    for places, said in (
        ([folder], "found 1 run to compare"),
        ([folder, folder / "adapters.safetensors"], "is of the same run as"),
        ([folder, tmp_path / "nowhere"], "there is no metrics.jsonl"),
    ):
        with pytest.raises(RunError, match=said):
            compare_runs(places)


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    """By as few parts of their paths as it takes."""
    assert name_folders([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert name_folders([tmp_path / "a" / "model", tmp_path / "b" / "model"]) == ["a/model", "b/model"]
    assert name_folders([tmp_path / "a", tmp_path / "a" / "a"]) == [f"{tmp_path.name}/a", "a/a"]


def test_a_run_that_was_set_aside_is_compared(tmp_path: Path) -> None:
    """It is a run like any other."""
    folder = make_run(tmp_path / "a", 100).folder
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b").rename(folder / "earlier-1")

    assert compare_runs([folder, folder / "earlier-1"]).names == ("a", "earlier-1")


def test_runs_over_preferences_have_margins(tmp_path: Path) -> None:
    """Margins and the share of better answers ahead are scores, higher ones better; losses are means over pairs."""
    for name, margin in (("a", 0.5), ("b", 0.75)):
        write_run(
            tmp_path / name,
            {"step": 0, "valid_loss": 0.69, "valid_rewards/margins": 0.0, "valid_rewards/accuracies": 0.0},
            {"step": 4, "loss": 0.6, "rewards/margins": margin, "rewards/accuracies": 0.5, "rewards/chosen": 1.0},
            {"step": 4, "valid_loss": 0.6, "valid_rewards/margins": margin, "valid_rewards/accuracies": 0.5},
        )
    found = compare_runs([tmp_path / "a", tmp_path / "b"])

    assert row(found, "best validation margin") == Row(
        name="best validation margin", cells=("0.5000", "0.7500"), best=1
    )
    assert row(found, "last better answers ahead, validation").best is None
    titles = {chart.title: chart for chart in found.charts}
    assert titles["Validation loss"].y_label == "mean over pairs"
    assert [line.ys for line in titles["Validation margin"].lines] == [(0.0, 0.5), (0.0, 0.75)]


def test_runs_over_mixtures_say_what_they_learned_of_each_source(tmp_path: Path) -> None:
    """The last numbers; a stream that has not ended once has no epochs, and a run without the source has no number."""
    for name, source, epochs in (("a", "photos", {"epochs/photos": 1.5}), ("b", "photos", {}), ("c", "charts", {})):
        write_run(
            tmp_path / name,
            {"step": 1, "loss": 1.0, f"rows/{source}": 1},
            {"step": 2, "loss": 0.9, f"rows/{source}": 1200, **epochs},
        )
    found = compare_runs([tmp_path / name for name in "abc"])

    assert row(found, "rows of photos").cells == ("1,200 (1.50 epochs)", "1,200", "")
    assert row(found, "rows of charts").cells == ("", "", "1,200")


def test_losses_of_different_objectives_are_not_compared(tmp_path: Path) -> None:
    """None of them is the better one, and the page says why; of one objective they are."""
    make_run(tmp_path / "a", 300)
    for name, beta in (("b", 0.1), ("c", 0.2)):
        make_run(tmp_path / name, 200, **{"train.objective": "dpo", "preference.beta": beta})
    mixed, other = (compare_runs([tmp_path / first, tmp_path / second]) for first, second in ("ab", "bc"))

    for found in (mixed, other):
        assert not found.of_one_loss
        assert {row(found, name).best for name in ("last train loss", "best validation loss")} == {None}
        assert row(found, "best ANLS").best is not None or found is other
    assert two_runs(tmp_path / "alike").of_one_loss
