"""The report of a run is there while it trains and whole at its end, and takes no more than its share of the time."""

import json
import re
from pathlib import Path

import attrs
from PIL import Image

from tests.report.run.test_answers import Rows, write_answers
from tests.run_events import FINISHED, STARTED
from vlora.events import Best, Event, Reported, Skipped, Warned
from vlora.recipe.parse import parse_recipe
from vlora.recipe.schema import Recipe
from vlora.report.run.answers import N_ROWS
from vlora.report.run.live import LEAST_SECONDS, MOST_NOTES, SHARE, LiveReport


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
    consumer = LiveReport(recipe_for(tmp_path), clock=clock)
    plot = tmp_path / "loss.png"
    with consumer as consume:
        consume(STARTED)
        assert (tmp_path / "report.html").is_file()
        assert not plot.exists()
        clock.now += LEAST_SECONDS
        for step in range(1, 8):
            consume(report(step))
            written.append(plot.stat().st_mtime_ns)
            clock.now += LEAST_SECONDS / 2
    assert len(set(written)) == 4
    assert plot.stat().st_mtime_ns > written[-2]
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def read_text_of(page: Path) -> str:
    """Give a page's text, whose commands are marked up word by word."""
    return re.sub("<[^>]*>", "", page.read_text())


def test_what_a_run_is_and_how_it_ended(tmp_path: Path) -> None:
    """The command that goes on stands there until it is over, the one that asks it from then on."""
    pages: dict[int, str] = {}
    for n_steps in (3, 9):
        with LiveReport(recipe_for(tmp_path), "python -m vlora a.toml --resume") as consume:
            consume(STARTED)
            consume(Warned(message="a warning"))
            for row in range(MOST_NOTES):
                consume(Skipped(reason=f"rows.jsonl row {row}: nothing"))
            consume(report(3))
            pages[0] = read_text_of(tmp_path / "report.html")
            consume(attrs.evolve(FINISHED, n_steps=n_steps))
        pages[n_steps] = read_text_of(tmp_path / "report.html")

    going_on = "python -m vlora a.toml --resume"
    assert [going_on in pages[number] for number in (0, 3, 9)] == [True, False, True]
    assert ["mlx_vlm.generate" in pages[number] for number in (0, 3, 9)] == [False, True, True]
    assert ["Training." in pages[0], "Training is over" in pages[3], "Stopped" in pages[9]] == [True, True, True]
    assert "a warning" in pages[3]
    assert "and 1 more" in pages[3]


def test_what_is_told_again_stands_once(tmp_path: Path) -> None:
    """A row that is skipped in every epoch leaves room for other warnings."""
    with LiveReport(recipe_for(tmp_path)) as consume:
        consume(STARTED)
        for _ in range(2 * MOST_NOTES):
            consume(Skipped(reason="rows.jsonl row 7: nothing"))
        consume(Warned(message="a warning"))
    page = read_text_of(tmp_path / "report.html")

    assert page.count("rows.jsonl row 7: nothing") == 1
    assert f"rows.jsonl row 7: nothing ({2 * MOST_NOTES} times)" in page
    assert "a warning" in page
    assert "and 1 more" not in page


def test_a_report_has_no_secrets(tmp_path: Path) -> None:
    """Neither in the recipe nor in the command that goes on: it is a page to show others."""
    address = "https://user:sesame@example.org/rows.jsonl?key=sesame"
    recipe = parse_recipe("", {"data.path": address, "output.path": str(tmp_path)})
    with LiveReport(recipe, f"python -m vlora a.toml --set 'data.path={address}' --resume") as consume:
        consume(STARTED)

    page = (tmp_path / "report.html").read_text()
    assert page.count("https://***@example.org/rows.jsonl?***") == 2
    assert "sesame" not in page


def test_a_run_that_kept_its_best_state(tmp_path: Path) -> None:
    """And stopped early: it is over, and both states can be asked."""
    best = Best(judged_by="valid_loss", step=2, value=0.1, path=tmp_path / "best")
    with LiveReport(recipe_for(tmp_path), "python -m vlora a.toml --resume") as consume:
        consume(STARTED)
        consume(attrs.evolve(FINISHED, n_steps=9, stopped_early=True, best=best))

    page = read_text_of(tmp_path / "report.html")
    assert "Training is over" in page
    assert "stopped early" in page
    assert page.count("mlx_vlm.generate") == 2
    assert f"--model {tmp_path / 'best'}" in page


def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    """Its last reports are there."""
    consume = LiveReport(recipe_for(tmp_path), clock=Clock())
    with consume:
        consume(STARTED)
        consume(report(3, 0.5))

    page = (tmp_path / "report.html").read_text()
    assert "Ended by an error" in page
    assert "0.5000" in page


def test_answers_are_shown_as_they_come(tmp_path: Path) -> None:
    """With the pictures of the rows that were held out."""
    held_out = Rows(9)
    with LiveReport(recipe_for(tmp_path)) as consume:
        consume(attrs.evolve(STARTED, held_out=held_out))
        assert "Answers" not in (tmp_path / "report.html").read_text()
        write_answers(tmp_path / "predictions.jsonl", 9, (0,))
        consume.write("training")
        assert (tmp_path / "report.html").read_text().count("<img ") == N_ROWS
        write_answers(tmp_path / "predictions.jsonl", 9, (0, 8))
    page = (tmp_path / "report.html").read_text()
    assert (page.count("before training"), page.count("after step 8")) == (N_ROWS, N_ROWS)
    assert held_out.read == list(range(N_ROWS))


def test_a_report_that_takes_long_is_written_less_often(tmp_path: Path) -> None:
    """Its share of the time stays what it is allowed to be."""
    clock = Clock(cost=1.0)
    consume = LiveReport(recipe_for(tmp_path), clock=clock)
    consume(STARTED)
    clock.now += LEAST_SECONDS
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
