"""Runs on several sources: proportions as they are told, epochs of each, exact resume in every order of rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from tests.arrays import load_arrays
from tests.runs import make_recipe, run, write_image_rows
from tests.training import picture
from vlora import Recipe
from vlora.events import Event, Finished, Reported, Started, StepReport
from vlora.output.paths import STATE_NAME
from vlora.recipe.sources import SourceSection

CheckpointFactory = Callable[[str], Path]


def mixture(model: Path, folder: Path, output: Path, weights: tuple[float, float] | None, **keys: Any) -> Recipe:
    """Make a run's recipe on two sources of other layouts."""
    folder.mkdir(exist_ok=True)
    first = write_image_rows(folder)
    second = folder / "chats.jsonl"
    picture(32, 32, 3).save(folder / "chat.png")
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a chat"}]
    second.write_text("".join(json.dumps({"messages": turns, "images": ["chat.png"], "n": n}) + "\n" for n in range(3)))
    recipe = make_recipe(model, first, output, **keys)
    paths, shares = (str(first), str(second)), weights or (None, None)
    sources = tuple(SourceSection(path=path, weight=share) for path, share in zip(paths, shares, strict=True))
    return attrs.evolve(recipe, data=attrs.evolve(recipe.data, path=None, sources=sources))


def finished(events: list[Event]) -> Finished:
    """Give the last event of a run."""
    end = events[-1]
    assert isinstance(end, Finished)
    return end


@pytest.mark.parametrize(
    "batching", ["shuffled", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grouped", "packed"))]
)
def test_resume_is_exact(batching: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A run that was stopped within an epoch ends in the same bits, and has counted the same of each source."""
    keys = {"train__batching": batching, "data__max_seq_length": 160, "train__epochs": 2, "train__steps_per_save": 1}
    if batching == "packed":
        keys["train__batch_size"] = 1
    model = checkpoint("qwen2_vl")
    recipes = [
        mixture(model, tmp_path / "rows", tmp_path / name / "a.safetensors", (1, 1), **keys) for name in ("one", "two")
    ]
    whole = run(recipes[0])
    asked = iter([False, False, False, True])
    run(recipes[1], should_stop=lambda: next(asked, True))
    resumed = run(recipes[1], resume=True)
    states = [load_arrays(tmp_path / name / STATE_NAME) for name in ("one", "two")]
    ends = [finished(events) for events in (whole, resumed)]

    assert all(np.array_equal(value, states[1][name]) for name, value in states[0].items())
    assert ends[0].sources == ends[1].sources
    assert [(use.n_rows, use.epochs) for use in ends[0].sources] == [(10, 10 / 7), (10, 10 / 3)]
    lines = [
        event.metrics for event in whole if isinstance(event, Reported) and "epochs/chats.jsonl train" in event.metrics
    ]
    assert lines[-1]["epochs/chats.jsonl train"] == 10 / 3
    assert lines[-1]["tokens/rows.jsonl train"] == ends[0].sources[0].n_tokens
    assert ends[0].sources[0].n_tokens > 0


def test_without_weights(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Each row of every source is learned once per epoch, and the beginning says so."""
    recipe = mixture(
        checkpoint("qwen2_vl"), tmp_path / "rows", tmp_path / "out" / "a.safetensors", None, train__epochs=1
    )
    events = run(attrs.evolve(recipe, data=attrs.evolve(recipe.data, valid_fraction=0.2)))
    started = next(event for event in events if isinstance(event, Started))
    rows = [mark.index for event in events if isinstance(event, StepReport) for mark in event.rows]

    assert (started.n_rows, started.n_valid_rows) == (8, 2)
    assert [(share.name, share.n_rows, share.n_drawn) for share in started.sources] == [
        ("rows.jsonl train", 6, 6),
        ("chats.jsonl train", 2, 2),
    ]
    assert sorted(rows) == list(range(8))
    assert [use.epochs for use in finished(events).sources] == [1.0, 1.0]
