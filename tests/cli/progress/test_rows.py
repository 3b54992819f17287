"""What commands that count rows show of it: a bar, a line now and then, or objects; nothing where only results are."""

import io
import json

from vlora.cli.progress.rows import SECONDS, RowProgress, open_progress
from vlora.cli.progress.state import ProgressState
from vlora.cli.screen import Mode, Screen
from vlora.events import Working


def run(mode: Mode, seconds: float, *, file: io.StringIO) -> list[str]:
    """Count ten rows, each of which takes a while, for what no terminal shows."""
    now = 0.0

    def clock() -> float:
        return now

    progress = RowProgress(Screen(mode=mode, file=file), ProgressState(clock=clock), clock=clock)
    progress.begin(Working(what="answering", total=10))
    for done in range(1, 11):
        now += seconds
        progress.reach(done)
    return file.getvalue().splitlines()


def test_a_pipe_is_told_now_and_then() -> None:
    """Half a minute without a line ends in one with the total and the time left; quick counts say nothing."""
    lines = run("all", SECONDS / 4, file=io.StringIO())

    assert lines == ["answering 4/10, about 0:45 left", "answering 8/10, about 0:15 left"]
    assert run("all", 0.1, file=io.StringIO()) == []
    assert run("quiet", SECONDS, file=io.StringIO()) == []


def test_programs_are_told_in_objects() -> None:
    """What begins, and how far it is at the pace of a pipe's lines."""
    first, second, third = map(json.loads, run("json", SECONDS / 4, file=io.StringIO()))

    assert first == {"event": "Working", "what": "answering", "total": 10}
    assert second == {"event": "Counted", "what": "answering", "done": 4, "total": 10, "seconds_left": 45.0}
    assert third["done"] == 8


def test_a_terminal_has_a_bar() -> None:
    """It is drawn while rows are counted, fits, and is gone in the end; quiet and JSON have none."""
    drawn = {}
    modes: tuple[Mode, ...] = ("all", "quiet", "json")
    for mode in modes:
        file = io.StringIO()
        screen = Screen(mode=mode, file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"})
        with open_progress(screen) as progress:
            progress.begin(Working(what="counting rows.jsonl train", total=10))
            progress.reach(5)
        drawn[mode] = "counting rows.jsonl train" in file.getvalue(), progress.has_bar

    assert drawn == {"all": (True, True), "quiet": (False, False), "json": (True, False)}
