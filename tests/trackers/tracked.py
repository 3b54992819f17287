"""A run to be tracked, and what TensorBoard's files have of it."""

import struct
from pathlib import Path
from typing import Any

from vlora.trackers.tracker import Answers, TrackedRun

ENDINGS = ("finished", "stopped", "failed")


def make_run(folder: Path, *, first_step: int = 0, key: str | None = None, project: str | None = None) -> TrackedRun:
    """Make a run in a folder."""
    return TrackedRun(
        name="first",
        project=project,
        folder=folder,
        values={"train.iters": 3, "optim.learning_rate": 1e-4, "data.path": "rows.jsonl", "data.shuffle": True},
        recipe="[train]\niters = 3\n",
        first_step=first_step,
        key=key,
    )


def make_answers() -> Answers:
    """Make answers with what tables of Markdown would misread."""
    rows = (("rows.jsonl:1", "a | b\n<script>", "`x`"), ("rows.jsonl:2", "größe", ""))
    return Answers(when="during", rows=rows, n_answers=5)


def read_events(folder: Path) -> list[Any]:
    """Read the events of all files: length, its sum, the event, its sum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data, place = file.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            events.append(Event.FromString(data[place + 12 : place + 12 + length]))
            place += length + 16
    return events


def scalars(events: list[Any]) -> list[tuple[str, int, float]]:
    """Give (name, step, value) of what is no text."""
    return [
        (value.tag, event.step, round(value.simple_value, 4))
        for event in events
        for value in event.summary.value
        if not value.tag.startswith("recipe")
    ]
