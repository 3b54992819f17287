"""Signs of life of a rank."""

import os
import threading

import pytest

from vlora.system import heartbeat


def test_says_whether_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte after the other, until nobody listens."""
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.01)
    read, write = os.pipe()
    beats = heartbeat.begin({heartbeat.DESCRIPTOR: str(write)})

    assert os.read(read, 1) == heartbeat.WORKS
    with beats.waiting():
        while os.read(read, 1) != heartbeat.WAITS:
            pass
    while os.read(read, 1) != heartbeat.WORKS:
        pass
    os.close(read)


def test_nobody_listens() -> None:
    """A run by itself has no thread for it."""
    assert heartbeat.begin({}).descriptor is None


def test_waits_until_all_are_there() -> None:
    """It says that it is there, and goes on when it is let, also a second time."""
    (pulse, theirs), (its_start, start) = os.pipe(), os.pipe()
    variables = {heartbeat.DESCRIPTOR: str(theirs), heartbeat.START: str(its_start)}
    thread = threading.Thread(target=heartbeat.wait_for_others, args=(variables,))
    thread.start()

    assert os.read(pulse, 9) == heartbeat.IS_HERE
    assert thread.is_alive()
    os.close(start)
    thread.join()
    heartbeat.wait_for_others(variables)
    assert os.read(pulse, 9) == heartbeat.IS_HERE
    # Who has started it has ended.
    os.close(pulse)
    heartbeat.wait_for_others(variables)
    for descriptor in (theirs, its_start):
        os.close(descriptor)


@pytest.mark.parametrize("variables", [{}, {heartbeat.DESCRIPTOR: "7"}, {heartbeat.START: "7"}])
def test_nobody_says_when(variables: dict[str, str]) -> None:
    """Ranks that something else has started look for one another at once."""
    heartbeat.wait_for_others(variables)
