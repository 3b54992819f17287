"""Objects that programs read."""

import json
from pathlib import Path

import attrs
import numpy as np

from vlora.cli.records import make_record, write_record
from vlora.events import Device, Reported, Saved, StepReport, Warned


@attrs.frozen
class _Odd:
    numbers: object
    hidden: object = attrs.field(default=None, repr=False)


def test_a_record_is_its_class_and_its_fields() -> None:
    """The event's name and its fields, those of records within it too."""
    assert make_record(Saved(path=Path("a/b"), step=3)) == {
        "event": "Saved",
        "path": "a/b",
        "step": 3,
        "best": None,
    }
    assert make_record(_Odd(Device(kind="cpu", name="x", memory_bytes=1), hidden=object())) == {
        "event": "_Odd",
        "numbers": {"kind": "cpu", "name": "x", "memory_bytes": 1},
    }
    assert make_record("Error", status=2) == {"event": "Error", "status": 2}


def test_values_are_those_of_json() -> None:
    """What is not finite is null, arrays are lists, and whatever stands in a text stays in one line."""
    odd = _Odd({"a": (1, float("nan"), np.float32(0.5)), Path("p"): np.arange(2), "s": frozenset({True})})
    line = write_record(make_record(odd, text="a\nb \u2028 \ud800"))

    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["numbers"] == {"a": [1, None, 0.5], "p": [0, 1], "s": [True]}


def test_events_of_a_run_can_be_written() -> None:
    """One of each kind that has numbers, texts and mappings."""
    step = StepReport(
        step=1,
        loss=1.5,
        running_loss=1.5,
        learning_rate=1e-3,
        grad_norm=2.0,
        tokens=4,
        places=4,
        supervised_tokens=2,
        n_terms=2,
        step_s=0.1,
        wait_s=0.0,
        n_traces=1,
        trace_s=0.1,
    )
    for event in (step, Reported(metrics={"step": 1, "device": "cpu"}), Warned(message='"x"')):
        assert json.loads(write_record(make_record(event)))["event"] == type(event).__name__
