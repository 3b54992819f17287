"""Smaller numbers with which a step that failed fits."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest

from tests.memory.test_shortage import MALLOC, SHAPE
from tests.runs import make_recipe
from tests.training import picture
from vlora import Example, build, collate, collate_packed
from vlora.errors import OutOfMemoryError
from vlora.estimate import planner as plans
from vlora.estimate import search as search_module
from vlora.estimate.search import Search, _encode_again, count_rows, first_rows
from vlora.estimate.shortage import advise
from vlora.recipe.schema import Recipe
from vlora.train.objectives.preference import PREFERRED
from vlora.types import Batch


def make_example(n_tokens: int) -> Example:
    """Make a row of text."""
    places = np.arange(n_tokens, dtype=np.int32)
    return Example(f"row of {n_tokens}", np.full_like(places, 2), places > n_tokens // 2, places < 0)


def test_text_of_one_row_that_is_too_large(recipe: Recipe, tmp_path: Path) -> None:
    """It is cut to what MLX has, and not to half of it."""
    recipe = make_recipe(
        Path(recipe.model.path), Path(recipe.data.path or ""), tmp_path / "o.safetensors", train__batch_size=1
    )
    batch = collate([make_example(900)])
    message = advise(recipe, OutOfMemoryError("step 1", SHAPE, batch, dimension=2717908992), None)
    found = re.search(r"--set data.max_seq_length=(\d+) \(", message)

    assert found is not None
    assert 700 < int(found[1]) <= batch.tokens.size * (2**31 - 1) // 2717908992


def test_first_rows() -> None:
    """Fewer rows of a batch: the longest ones, packed as they were."""
    examples = [make_example(number) for number in (5, 40, 9)]
    packed = collate_packed([[examples[0], examples[2]], [examples[1]]], 2)

    assert [row.source for row in first_rows(collate(examples), 2).rows] == ["row of 40", "row of 9"]
    fewer = first_rows(packed, 1)
    assert [row.source for row in fewer.rows] == ["row of 40"]
    assert fewer.segment_ids is not None
    assert fewer.tokens.shape[0] == 1


@pytest.mark.parametrize(("keys", "sizes"), [({}, [200, 100, 50]), ({"train__shard": "params"}, [])])
def test_command_buffers_that_are_proposed_are_smaller(
    keys: dict[str, Any], sizes: list[int], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of divided weights are small by themselves."""
    rows = Path(recipe.data.path or "")
    recipe = make_recipe(Path(recipe.model.path), rows, tmp_path / "out", train__grad_checkpoint=True, **keys)
    search = Search(recipe, collate([make_example(40)]), 2**30, 0, lambda: False)
    card = {"compute_capability_major": 9, "compute_capability_minor": 0, "total_memory": 80 * 2**30}
    monkeypatch.setattr(search_module, "device_kind", lambda: "cuda")
    monkeypatch.setattr(mx, "device_info", lambda: card)
    monkeypatch.setattr(Search, "_option", lambda _, keys, __: keys)

    proposed: Any = search._command_buffers()
    assert [keys["memory.max_mb_per_buffer"] for keys in proposed] == sizes


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"train__batch_size": 1}, ["--set data.max_seq_length="]),
        pytest.param(
            {"train__batch_size": 1, "train__grad_checkpoint": True},
            ["--set data.max_seq_length="],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_text_of_one_row(keys: dict[str, Any], words: list[str], recipe: Recipe, tmp_path: Path) -> None:
    """What cannot be divided is cut, or the model is made smaller; what is there already is not proposed."""
    recipe = make_recipe(Path(recipe.model.path), Path(recipe.data.path or ""), tmp_path / "o.safetensors", **keys)
    batch = collate([make_example(900)])
    message = advise(recipe, OutOfMemoryError("step 1", MALLOC, batch), None)

    for found in words:
        assert found in message
    assert "batch_size" not in message
    assert ("grad_checkpoint" in message) != recipe.train.grad_checkpoint


@pytest.mark.slow
def test_images_are_made_smaller(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A row that is nearly all image fits with fewer pixels, found by encoding that row anew."""
    picture(256, 256).save(tmp_path / "large.png")
    row = {"question": "What?", "answer": "so", "images": ["large.png"] * 4}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    recipe = make_recipe(checkpoint("qwen3_vl"), tmp_path / "rows.jsonl", tmp_path / "o.safetensors")
    data = build.load_data(recipe)
    batch = collate([data.encoder(data.train[0])])
    message = advise(recipe, OutOfMemoryError("step 1", MALLOC, batch), None)

    assert re.search(r"--set data.max_pixels=\d+ \(", message)
    assert "max_seq_length" not in message


def test_many_rows_are_planned_by_a_few(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows have failed, no more than some are planned; what all of them need is known to 5 %."""
    planned: list[int] = []
    parts = plans.Planner.parts

    def count(planner: plans.Planner, batch: Batch) -> dict[str, int]:
        planned.append(batch.tokens.shape[0])
        return parts(planner, batch)

    monkeypatch.setattr(plans.Planner, "parts", count)
    batch = collate([make_example(100)] * 256)
    search = Search(recipe, batch, 10**7, 0, lambda: False)

    assert planned == [search_module.MOST_ROWS]
    whole = sum(parts(search._planner(), batch).values())
    assert search.need == pytest.approx(whole, rel=0.05)


def test_a_search_that_is_late(recipe: Recipe) -> None:
    """It ends with what it has found, after one plan."""
    calls: list[str] = []

    def is_late() -> bool:
        calls.append("asked")
        return True

    search = Search(recipe, collate([make_example(100)] * 8), 10**7, 0, is_late)
    found = search.find()

    assert [list(option.keys) for option in found] in ([], [["train.grad_checkpoint"]])
    assert calls == ["asked"]


def make_pairs(n_rows: int) -> Batch:
    """Make a batch of pairs, the later ones longer; the worse answer is the longer one."""
    examples = [
        attrs.evolve(make_example(20 + 10 * row + 5 * place), group=row, columns={PREFERRED: 1.0 - place})
        for row in range(n_rows)
        for place in range(2)
    ]
    return collate(examples, 2 * n_rows)


def test_a_row_may_be_several_examples() -> None:
    """The two answers of a pair stay together, and the longest pair is the one with the longest answer."""
    batch = make_pairs(4)
    fewer = first_rows(batch, 2)

    assert (count_rows(batch), count_rows(fewer), count_rows(collate([make_example(9)] * 3, 4))) == (4, 2, 4)
    assert [row.source for row in fewer.rows] == ["row of 50", "row of 55", "row of 40", "row of 45"]
    assert fewer.tokens.shape[0] == 4
    assert fewer.n_groups == 2


def test_fewer_pairs_are_fewer_rows_of_the_recipe(recipe: Recipe) -> None:
    """train.batch_size counts pairs: half of four is two, of which a step takes twice as many microbatches."""
    pairs = attrs.evolve(recipe, train=attrs.evolve(recipe.train, objective="orpo", batch_size=4))
    search = Search(pairs, make_pairs(4), 10**9, 0, lambda: False)
    options = [option.keys for option in search._fewer_rows()]

    assert options[0] == {"train.batch_size": 2, "train.gradient_accumulation_steps": 2}
    assert options[-1] == {"train.batch_size": 1, "train.gradient_accumulation_steps": 4}


def test_images_of_pairs_are_made_smaller(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Both answers are encoded anew, in one group and with the column that says which is better."""
    picture(96, 96).save(tmp_path / "large.png")
    row = {"prompt": "What?", "chosen": "so", "rejected": "no", "images": ["large.png"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    recipe = make_recipe(checkpoint("qwen3_vl"), tmp_path / "rows.jsonl", tmp_path / "o", train__objective="orpo")
    found = _encode_again(recipe, {f"{build.load_data(recipe).train.name} row 0"})

    assert [example.columns[PREFERRED] for example in found] == [1.0, 0.0]
    assert {example.group for example in found} == {0}
