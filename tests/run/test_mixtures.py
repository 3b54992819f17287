"""Runs on several sources: proportions as they are told, epochs of each, exact resume in every order of rows."""

import json
import os
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
from vlora.data import streaming
from vlora.errors import CheckpointError
from vlora.events import EpochEnded, Event, Finished, Reported, Started, StepReport
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


@pytest.mark.parametrize(
    ("stop", "batching"),
    [
        (4, "shuffled"),
        *(pytest.param(stop, "shuffled", marks=pytest.mark.slow) for stop in (1, 2, 3, 5, 6, 8)),
        *(pytest.param(stop, "grouped", marks=pytest.mark.slow) for stop in (1, 2, 3, 4, 5, 6)),
    ],
)
def test_streamed_sources_resume_exactly_inside_their_buffers(
    stop: int, batching: str, checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped ends in the same bits: order, dropout, counts, epochs of each source and their rows."""
    monkeypatch.setattr(streaming, "WINDOW_BATCHES", 4)
    keys: dict[str, Any] = {"data__streaming": True, "data__shuffle_buffer": 3, "train__iters": 10}
    keys |= {"lora__dropout": 0.2, "data__workers": 2, "data__prefetch": 3, "train__steps_per_report": 5}
    keys |= {"train__batching": batching}
    recipes = [
        mixture(checkpoint("qwen2_vl"), tmp_path / "rows", tmp_path / name / "a.safetensors", (3, 2), **keys)
        for name in ("one", "two")
    ]
    whole = run(recipes[0])
    asked = iter([*[False] * (stop - 1), True])
    parts = [*run(recipes[1], should_stop=lambda: next(asked)), *run(recipes[1], resume=True)]
    states = [load_arrays(tmp_path / name / STATE_NAME) for name in ("one", "two")]
    started = next(event for event in whole if isinstance(event, Started))
    ended = [[event for event in events if isinstance(event, EpochEnded)] for events in (whole, parts)]
    ends = [finished(events) for events in (whole, parts)]

    assert (started.n_rows, started.n_files) == (None, 2)
    assert [(share.name, share.real) for share in started.sources] == [("rows.jsonl", 0.6), ("chats.jsonl", 0.4)]
    assert all(np.array_equal(value, states[1][name]) for name, value in states[0].items())
    assert ended[0] == ended[1]
    # Epochs are told with the last batch of a window.
    assert batching == "grouped" or {(event.source, event.epoch, event.n_rows) for event in ended[0]} >= {
        ("rows.jsonl", 1, 7),
        ("chats.jsonl", 1, 3),
        ("chats.jsonl", 2, 3),
    }
    assert ends[0].sources == ends[1].sources
    assert sum(use.n_rows for use in ends[0].sources) == 20
    assert abs(ends[0].sources[0].n_rows - 12) <= 2
    assert batching == "grouped" or [use.epochs for use in ends[0].sources] == [
        use.n_rows / size for use, size in zip(ends[0].sources, (7, 3), strict=True)
    ]


def test_streamed_sources_without_weights_resume_exactly(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A run that was stopped ends in the same bits, and each row of all sources was learned once an epoch of them."""
    keys: dict[str, Any] = {"data__streaming": True, "data__shuffle_buffer": 3, "train__iters": 10}
    keys |= {"lora__dropout": 0.2, "data__workers": 2, "data__prefetch": 3, "train__steps_per_report": 5}
    recipes = [
        mixture(checkpoint("qwen2_vl"), tmp_path / "rows", tmp_path / name / "a.safetensors", None, **keys)
        for name in ("one", "two")
    ]
    whole = run(recipes[0])
    asked = iter([*[False] * 3, True])
    parts = [*run(recipes[1], should_stop=lambda: next(asked)), *run(recipes[1], resume=True)]
    states = [load_arrays(tmp_path / name / STATE_NAME) for name in ("one", "two")]
    started = next(event for event in whole if isinstance(event, Started))
    ended = [[event for event in events if isinstance(event, EpochEnded)] for events in (whole, parts)]
    ends = [finished(events) for events in (whole, parts)]

    assert [(share.name, share.wanted) for share in started.sources] == [("rows.jsonl", None), ("chats.jsonl", None)]
    assert all(np.array_equal(value, states[1][name]) for name, value in states[0].items())
    assert ended[0] == ended[1]
    # Ten rows an epoch of both, two rows a step.
    assert [(event.source, event.epoch, event.n_rows) for event in ended[0]] == [
        ("chats.jsonl", 1, 3),
        ("rows.jsonl", 1, 7),
        ("chats.jsonl", 2, 3),
        ("rows.jsonl", 2, 7),
    ]
    assert ends[0].sources == ends[1].sources
    assert [(use.n_rows, use.epochs) for use in ends[0].sources] == [(14, 2.0), (6, 2.0)]


def test_a_changed_file_of_a_streamed_source_is_refused(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """By the key of its source; and a mixture does not go on from a single stream."""
    keys: dict[str, Any] = {"data__streaming": True, "data__shuffle_buffer": 1, "train__iters": 4}
    output = tmp_path / "out" / "a.safetensors"
    recipe = mixture(checkpoint("qwen2_vl"), tmp_path / "rows", output, (1, 1), **keys)
    asked = iter([False, True])
    run(recipe, should_stop=lambda: next(asked))
    os.utime(tmp_path / "rows" / "chats.jsonl", ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"chats\.jsonl.*allow_changed_rows"):
        run(recipe, resume=True)
    single = attrs.evolve(recipe, data=attrs.evolve(recipe.data, path=recipe.data.sources[0].path, sources=()))
    with pytest.raises(CheckpointError, match=r"data\.path: not given then"):
        run(single, resume=True)
    allowed = attrs.evolve(recipe, data=attrs.evolve(recipe.data, allow_changed_rows=True))

    assert finished(run(allowed, resume=True)).step == 4
