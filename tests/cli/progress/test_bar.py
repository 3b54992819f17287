"""The line that says how far a run is."""

import attrs
import pytest

from tests.cli.progress.test_state import STEP
from vlora.cli.progress.bar import SPINNER, format_seconds, write_bar
from vlora.cli.progress.state import ProgressState
from vlora.events import Generated, Working


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.4, "0:00"),
        (65, "1:05"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (90061, "1 day 1:01:01"),
        (180000, "2 days 2:00:00"),
    ],
)
def test_times(seconds: float, written: str) -> None:
    """Without a unit that is nothing."""
    assert format_seconds(seconds) == written


@pytest.mark.parametrize("width", [20, 40, 79, 119, 200])
def test_it_fits(width: int) -> None:
    """Whatever a run does; what matters most is there for longest."""
    state = ProgressState()
    state.take(Working(what="importing MLX, mlx-vlm and transformers"))
    lines = [write_bar(state, width)]
    state.take(Working(what="answering before training", total=300))
    lines.append(write_bar(state, width))
    state.take(Generated(when="before", done=299, total=300, accuracy=0.0, expected="a", found="b"))
    lines.append(write_bar(state, width))
    state.take(attrs.evolve(STEP, step=123456, n_steps=200000, tokens=10**7, step_s=1.0, n_traces=0))
    lines.append(write_bar(state, width, 101.23))

    assert max(map(len, lines)) <= width
    assert lines[0][0] in SPINNER
    if width >= 79:
        assert "answering before training 0/300" in lines[1]
        assert "answering before training 299/300  0:00 left" in lines[2]
        assert "step 123456/200000  21:15:44 left  loss 1.0000" in lines[3]
    assert ("101.23 GB" in lines[3]) == (width > 79)


def test_the_bar_grows() -> None:
    """From nothing to all."""
    state = ProgressState()
    lengths = []
    for step in (1, 50, 100):
        state.take(attrs.evolve(STEP, step=step))
        lengths.append(write_bar(state, 79).count("━"))

    assert lengths == [0, 6, 12]


def test_a_bar_does_not_stand_still() -> None:
    """Until the first answers are there, which come together, the time that passes is shown."""
    now = [100.0]
    state = ProgressState(clock=lambda: now[0])
    state.take(Working(what="answering before training", total=12))
    lines = [write_bar(state, 79)]
    now[0] += 65
    lines.append(write_bar(state, 79))
    state.take(Generated(when="before", done=1, total=12, accuracy=0.0, expected="a", found="b"))
    lines.append(write_bar(state, 79))

    assert [line.partition(" ")[2] for line in lines] == [
        "answering before training 0/12  0:00",
        "answering before training 0/12  1:05",
        "answering before training 1/12  11:55 left",
    ]
