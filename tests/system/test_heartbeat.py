"""Signs of life of a rank."""

import os

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
