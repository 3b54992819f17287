"""What a run prints."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.cli.progress.test_state import STEP
from vlora.cli.progress.state import ProgressState
from vlora.cli.screen import Mode, Screen
from vlora.cli.view import EventView, open_view, write_report
from vlora.events import Event, Generated, Reported, Saved, Skipped, Warned, Working

METRICS = {"step": 123456, "loss": 18.36992, "running_loss": 18.36992, "learning_rate": 1e-3}
METRICS |= {"grad_norm": 121.0521, "tokens_per_s": 52345.1, "peak_memory_gb": 101.234}


@pytest.mark.parametrize(("width", "is_whole"), [(120, True), (119, True), (79, False)])
def test_a_report_fits_its_terminal(width: int, is_whole: bool) -> None:
    """Where a report is wider than the terminal, it leaves out what the bar below it shows."""
    line = write_report(Reported(metrics=METRICS), 200000, None, width, has_bar=True)

    assert len(line) <= width
    assert line.startswith("step 123456")
    assert "loss 18.3699  " in line
    assert "grad norm 121.052  52,345 tokens/s" in line
    assert ("mean 18.3699" in line, "101.23 GB" in line, "/200000" in line) == (is_whole, is_whole, is_whole)
    short = write_report(Reported(metrics={**METRICS, "step": 20}), 282, None, 79, has_bar=True)
    assert short.startswith("step  20/282  loss")


@pytest.mark.parametrize(("step", "n_steps"), [(20, 282), (123456, 200000)])
def test_a_report_of_a_pipe_fits_a_screen(step: int, n_steps: int) -> None:
    """And has the steps of the whole run and the time left."""
    line = write_report(Reported(metrics={**METRICS, "step": step}), n_steps, 83.0, 79)

    assert len(line) <= 79
    assert re.match(rf"step +{step}/{n_steps}  loss 18.3699  ", line)
    assert line.endswith("  1:23 left")
    assert "52,345 tokens/s" in line


def test_steps_that_were_passed_over_have_a_line() -> None:
    """Where no other step is reported."""
    line = write_report(Reported(metrics={"step": 20, "steps_passed_over": 1}), 282, 83.0, 79)

    assert line == "step  20/282  no row to learn from in 1 step"


def events_of_a_run() -> Iterator[Event]:
    """Yield what a run of a hundred steps says."""
    yield Working(what="loading the model")
    yield Working(what="answering before training", total=300)
    for done in range(1, 301):
        yield Generated(when="before", done=done, total=300, accuracy=0.0, expected="a b c " * 20, found="d")
    yield Working(what="compiling the first step")
    for step in range(1, 101):
        yield attrs.evolve(STEP, step=step, n_traces=1, step_s=1.0)
    yield Reported(metrics={**METRICS, "step": 100})
    yield Saved(
        path=Path("/runs/with/a/folder/that/has/a/name/longer/than/most/names/of/folders/adapters.st"), step=100
    )
    yield Warned(message="[bold]no markup[/] " + "word " * 40)


def test_a_pipe_is_told_what_goes_on() -> None:
    """Phases before the first step have their lines, and a while without a line ends in one with the time left."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    file = io.StringIO()
    view = EventView(Screen(file=file), ProgressState(clock=clock), clock=clock)
    for event in events_of_a_run():
        view.show(event)
    lines = file.getvalue().splitlines()

    assert lines[:2] == ["loading the model ...", "answering before training 300 rows ..."]
    assert any(re.fullmatch(r"answering before training \d+/300, about \d+:\d\d left", line) for line in lines)
    assert any(re.fullmatch(r"step \d+/100, about \d:\d\d left", line) for line in lines)
    assert "compiling the first step ..." in lines
    # A path stays whole, so that it is found in a file.
    whole = [line for line in lines if not line.startswith("saved /runs/with/a/folder/")]
    assert len(whole) == len(lines) - 1
    assert max(map(len, whole)) <= 79


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_a_terminal(width: int) -> None:
    """At most a column less than there are; the bar is drawn and drawn again, and gone in the end."""
    file = io.StringIO()
    screen = Screen(file=file, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    with open_view(screen) as view:
        for event in events_of_a_run():
            view.show(event)
    text = re.sub(r"\x1b\[[\d?;]*[a-zA-Z]", "", file.getvalue()).replace("\r", "\n")
    lines = text.splitlines()

    assert width - 8 <= max(map(len, lines)) <= width - 1
    for said in ("loading the model  0:00", "answering before training 300/300", "compiling the first step"):
        assert any(said in line for line in lines)
    assert any("step 100/100  0:00 left  loss 1.0000" in line for line in lines)
    assert sum("note [bold]no markup[/] word" in line for line in lines) == 1
    assert not re.search(r"(wor|names/o|ste)\n", text)


def test_programs_are_told_the_time_left() -> None:
    """With the events that count."""
    file = io.StringIO()
    view = EventView(Screen(file=file, mode="json"))
    for event in events_of_a_run():
        view.show(event)
    found = [json.loads(line) for line in file.getvalue().splitlines()]

    (last,) = [event for event in found if event["event"] == "StepReport" and event["step"] == 60]
    assert (last["n_steps"], last["seconds_left"]) == (100, 40.0)
    assert all("seconds_left" in event for event in found if event["event"] == "Generated")


def test_a_reason_is_printed_once() -> None:
    """A row is skipped in each epoch and each validation; programs are told every time."""
    printed = {}
    modes: tuple[Mode, ...] = ("all", "json")
    for mode in modes:
        file = io.StringIO()
        view = EventView(console=Screen(mode=mode, file=file, width=80))
        for row in (3, 5, 3, 3):
            view.show(Skipped(reason=f"rows.jsonl row {row}: nothing"))
        printed[mode] = [line for line in file.getvalue().splitlines() if "nothing" in line]

    assert printed["all"] == ["skipped rows.jsonl row 3: nothing", "skipped rows.jsonl row 5: nothing"]
    assert len(printed["json"]) == 4
