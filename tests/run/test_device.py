"""The device of a run: nothing changes it behind the step's back, and the run says which one it is."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest

from vlora import events
from vlora.build import make_recipe_step
from vlora.memory.limits import describe_device
from vlora.models.encode.encoder import Encoder
from vlora.recipe.parse import parse_recipe
from vlora.run import start
from vlora.run.fit import fit


@attrs.define
class DefaultDevice:
    """Stands in for the variable in which MLX keeps the default device of all threads.

    Attributes:
        value: What it holds now.
        changes: Names of the threads that changed it.
    """

    value: str = "gpu"
    changes: list[str] = attrs.field(factory=list)

    def set(self, device: Any) -> None:
        """Change it for every thread, as `mx.set_default_device` does."""
        self.changes.append(threading.current_thread().name)
        self.value = str(device)

    @contextmanager
    def stream(self, device: Any) -> Iterator[None]:
        """Change it for every thread for the time being, as `with mx.stream(...)` does."""
        held = self.value
        self.set(device)
        try:
            yield
        finally:
            self.value = held


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> DefaultDevice:
    stand_in = DefaultDevice()
    monkeypatch.setattr(mx, "stream", stand_in.stream)
    monkeypatch.setattr(mx, "set_default_device", stand_in.set)
    return stand_in


@pytest.mark.parametrize("batching", ["shuffled", "grouped", "packed"])
def test_a_step_never_sees_another_device(
    device: DefaultDevice, batching: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers encode and measure rows while steps are built; the step finds the device as it was."""
    seen: list[str] = []
    workers: set[str] = set()
    encode, make = Encoder.__call__, make_recipe_step

    def encode_noting(self: Encoder, sample: Any) -> Any:
        workers.add(threading.current_thread().name)
        return encode(self, sample)

    def make_noting(*args: Any, **kwargs: Any) -> Any:
        step = make(*args, **kwargs)

        def noting(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                seen.append(device.value)
                result = method(*args)
                seen.append(device.value)
                return result

            return call

        parts = {name: noting(getattr(type(step), name)) for name in ("accumulate", "update")}
        step.__class__ = type("Noting", (type(step),), parts)
        return step

    monkeypatch.setattr(Encoder, "__call__", encode_noting)
    monkeypatch.setattr(start, "make_recipe_step", make_noting)
    recipe = parse_recipe(
        (Path(__file__).parents[2] / "recipes" / "quickstart.toml").read_text(),
        {
            "train.iters": 4,
            "train.batch_size": 4,
            "train.batching": batching,
            "data.workers": 2,
            "eval.answer_rows": 0,
            "train.val_batches": 1,
            # Packed rows are as long as the longest row may be, which digits are far from.
            "data.max_seq_length": 64,
            "output.path": str(tmp_path / "run/model"),
        },
    )

    list(fit(recipe))

    assert any(name.startswith("vlora") for name in workers)
    assert seen
    assert set(seen) == {"gpu"}
    assert device.changes == []


def test_a_run_says_what_it_computes_on(tmp_path: Path) -> None:
    """The first event and the first line of metrics.jsonl name the device."""
    recipe = parse_recipe(
        (Path(__file__).parents[2] / "recipes" / "quickstart.toml").read_text(),
        {
            "train.iters": 2,
            "train.batch_size": 4,
            "train.val_batches": 1,
            "eval.answer_rows": 0,
            "output.path": str(tmp_path / "run/model"),
        },
    )
    (started,) = [event for event in fit(recipe) if isinstance(event, events.Started)]
    lines = [json.loads(line) for line in (tmp_path / "run/model/metrics.jsonl").read_text().splitlines()]

    assert started.device == describe_device()
    assert lines[0]["device"] == describe_device().kind == "cpu"
    assert lines[0]["device_memory_gb"] > 1
    reported = [line for line in lines if "loss" in line]
    assert lines[0]["unix_time"] <= reported[0]["first_step_unix_time"] <= reported[0]["unix_time"]
    assert all("first_step_unix_time" not in line for line in reported[1:])
