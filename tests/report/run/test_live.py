"""The report of a run is there while it trains and whole at its end, and takes no more than its share of the time."""

import json
from pathlib import Path

import attrs
from PIL import Image

from vlora.events import Columns, Device, Event, FeatureStorage, HeadUse, Reported, Started, TemplateUse
from vlora.recipe.parse import parse_recipe
from vlora.recipe.schema import Recipe
from vlora.report.run.live import LEAST_SECONDS, SHARE, LiveReport

STARTED = Started(
    device=Device(kind="cpu", name="a chip", memory_bytes=10**9),
    model_type="qwen3_vl",
    n_rows=7,
    n_valid_rows=0,
    n_steps=100,
    is_estimated=False,
    first_step=0,
    n_params=10,
    n_trainable=1,
    adapted=(),
    columns=Columns(),
    features=FeatureStorage(),
    template=TemplateUse(origin="model"),
    head=HeadUse(extent="chunks"),
)


def recipe_for(folder: Path) -> Recipe:
    """Make a recipe that writes into a folder."""
    return parse_recipe('[data]\npath = "-"', {"output.path": str(folder)})


def report(step: int, loss: float = 1.0) -> Event:
    """Make a report."""
    return Reported(metrics={"step": step, "loss": loss, "running_loss": loss, "unix_time": 1.0})


@attrs.define
class Clock:
    """Goes on when it is told to, and by a bit whenever it is read."""

    now: float = 0.0
    cost: float = 0.0

    def __call__(self) -> float:
        """Give the time."""
        self.now += self.cost
        return self.now


def test_it_is_written_at_once_then_seldom_and_at_the_end(tmp_path: Path) -> None:
    """At most every few seconds; what came since then is in the last version."""
    clock, written = Clock(), []
    consumer = LiveReport(recipe_for(tmp_path), clock)
    plot = tmp_path / "loss.png"
    with consumer as consume:
        consume(STARTED)
        assert not plot.exists()
        for step in range(1, 8):
            consume(report(step))
            written.append(plot.stat().st_mtime_ns)
            clock.now += LEAST_SECONDS / 2
    assert len(set(written)) == 4
    assert plot.stat().st_mtime_ns > written[-2]
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def test_a_report_that_takes_long_is_written_less_often(tmp_path: Path) -> None:
    """Its share of the time stays what it is allowed to be."""
    clock = Clock(cost=1.0)
    consume = LiveReport(recipe_for(tmp_path), clock)
    consume(STARTED)
    times = []
    for step in range(1, 3000):
        consume(report(step))
        times.append((tmp_path / "loss.png").stat().st_mtime_ns)

    # Each version takes a second, and asking for the time one more.
    assert 2 <= len(set(times)) <= clock.now * SHARE + 2


def test_a_run_that_goes_on_shows_what_was_before(tmp_path: Path) -> None:
    """The lines that are left in the file."""
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 10, "loss": 5.0}) + "\n")
    consume = LiveReport(recipe_for(tmp_path))
    consume(attrs.evolve(STARTED, first_step=10))
    consume(report(20))

    run = consume.log.freeze(tmp_path, {})
    assert run["loss"].steps == (10, 20)
    assert run.resumed == (10,)


def test_a_run_that_begins_does_not_read_what_another_has_left(tmp_path: Path) -> None:
    """It was set aside before, or is not a run's."""
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 10, "loss": 5.0}) + "\n")
    consume = LiveReport(recipe_for(tmp_path))
    consume(STARTED)
    consume(report(20))

    assert consume.log.freeze(tmp_path, {})["loss"].steps == (20,)


def test_nothing_is_written_of_a_run_that_did_not_start(tmp_path: Path) -> None:
    """An error before the first step leaves no picture."""
    with LiveReport(recipe_for(tmp_path)):
        pass

    assert list(tmp_path.iterdir()) == []
