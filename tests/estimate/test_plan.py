"""The plan of a recipe: what a step takes, predicted from shapes, beside what it takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from benchmarks.memory import Case, run_case
from benchmarks.shapes import SHAPES
from tests.families import FAMILIES, build
from vlora import parse_recipe
from vlora.build import find_model, load_model
from vlora.estimate import plan as planning
from vlora.estimate.plan import make_plan
from vlora.estimate.planner import UNPLANNABLE, Planner
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.ops.parameters import count_parameters
from vlora.recipe.schema import ModelSection

Checkpoint = Callable[[str], Path]
TOLERANCE = 0.25
"""On so small a model chance decides how much is queued; benchmarks/memory.py holds larger ones to 0.15."""


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"train.grad_checkpoint": True, "lora.dropout": 0.1},
        {"train.grad_checkpoint": True, "train.checkpoint_part": "mlp", "model.quantize_bits": 4},
        {"model.full_finetune": True, "optim.grad_clip": 1.0},
    ],
    ids=["lora", "recomputed", "qlora", "full"],
)
def test_predicted_is_measured(keys: dict[str, Any]) -> None:
    """The predicted peak of a step is near the measured one."""
    result = run_case(
        Case(shape=SHAPES["tiny"], rows=2, tokens=129, supervised=32, dtype="float32", keys={"lora.rank": 8, **keys})
    )

    assert result["ratio"] == pytest.approx(1, abs=TOLERANCE), result


def recipe_of(folder: Path, **keys: Any) -> Any:
    keys = {name.replace("__", "."): value for name, value in keys.items()}
    return parse_recipe(
        "",
        {
            "model.path": str(folder),
            "data.path": "no such file.jsonl",
            "train.batch_size": 2,
            "data.max_seq_length": 64,
            **keys,
        },
    )


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "llava", "mllama", "qwen3_vl_moe", "lfm2_vl"])
def test_no_weights_are_loaded(family: str, checkpoint: Checkpoint) -> None:
    """A blank model has the real one's parameters, trained as the recipe says, and takes next to no memory."""
    recipe = recipe_of(checkpoint(family), model__quantize_bits=4, model__quantize_group_size=32)
    files = find_model(recipe)
    real, _ = load_model(recipe, files)
    before = mx.get_active_memory()
    blank, _ = load_model(recipe, files, is_abstract=True)
    shapes = [
        {name: (value.shape, value.dtype) for name, value in tree_flatten(backbone.module.parameters())}
        for backbone in (real, blank)
    ]

    assert shapes[0] == shapes[1]
    assert count_parameters(real.module) == count_parameters(blank.module)
    assert (
        mx.get_active_memory() - before < sum(value.nbytes for _, value in tree_flatten(real.module.parameters())) / 4
    )
    assert real.head == blank.head


def test_a_plan_without_rows(checkpoint: Checkpoint) -> None:
    """Rows that cannot be read are taken to be as long as they may be; the plan says so, and the parts add up."""
    plan = make_plan(recipe_of(checkpoint("qwen3_vl"), data__max_seq_length=100), memory_gb=0.03)

    assert "no such file.jsonl" in plan.rows
    assert (plan.batch_size, plan.n_tokens) == (2, 128)
    assert plan.peak == sum(plan.parts.values()) > plan.parts["weights"] > 0
    assert plan.longest is not None
    assert plan.longest > plan.n_tokens


def test_a_frozen_tower_is_planned(tmp_path: Path) -> None:
    """Rows with images are planned where the tower is frozen, too."""
    keys = {"model__path": "builtin:tiny-qwen3-vl", "data__path": "builtin:digits", "data__config": "digit"}
    plan = make_plan(recipe_of(tmp_path, **keys, output__path=str(tmp_path / "a")), memory_gb=0.001, with_longest=False)

    assert plan.rows == "the longest of all 1,497 rows"
    assert plan.n_trainable < plan.n_params / 10
    assert plan.peak > plan.parts["weights"] > 0


def test_the_longest_row_is_found_wherever_it_stands(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Not only among the first rows, and beside rows that cannot be read; `n_rows` looks at fewer."""
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"question": "q", "answer": "a" * (1 + number)}) for number in range(50)]
    lines += ['{"nothing": 1}', json.dumps({"question": "q", "answer": "word " * 100})]
    rows.write_text("\n".join(lines))
    recipe = recipe_of(checkpoint("qwen3_vl"), data__path=str(rows), train__batch_size=1, data__max_seq_length=1024)
    plan = make_plan(recipe, memory_gb=0.03, with_longest=False)
    early = make_plan(recipe, memory_gb=0.03, n_rows=20, with_longest=False)

    assert plan.rows == "the longest of all 52 rows"
    assert early.rows == "the longest of the first 20 rows"
    assert plan.n_tokens > 2 * early.n_tokens


@pytest.mark.parametrize("on_bad_row", ["raise", pytest.param("skip", marks=pytest.mark.slow)])
def test_a_plan_of_rows_that_are_all_bad(on_bad_row: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Where no row can be read a plan says why and takes the longest there could be, skipping or not."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": "none.png", "question": "q", "answer": "a"}\n' * 3)
    keys = {"data__path": str(rows), "data__on_bad_row": on_bad_row}
    plan = make_plan(recipe_of(checkpoint("qwen3_vl"), **keys), with_longest=False)

    assert "rows.jsonl train row" in plan.rows
    assert "none.png" in plan.rows


@given(
    fixed=st.integers(0, 2**34),
    slope=st.integers(10**3, 10**7),
    curvature=st.integers(0, 1000),
    memory=st.integers(2**28, 2**37),
    most=st.sampled_from([2**9, 2**14, 2**30]),
)
def test_the_longest_row_is_found_in_few_tries(fixed: int, slope: int, curvature: int, memory: int, most: int) -> None:
    """What is found fits, one longer by a sixteenth does not, whether memory or MLX's largest array is the limit."""
    tried: list[int] = []

    class Needs:
        def need(self, length: int, _: float) -> int:
            tried.append(length)
            return UNPLANNABLE if length > most else fixed + slope * length + curvature * length**2

    found = planning._find_longest(cast("Planner", Needs()), 0.5, memory)
    assert found is not None
    n_tried = len(tried)

    assert found in {0, planning.LONGEST} or Needs().need(found + 1, 0) <= memory
    assert found == planning.LONGEST or Needs().need(max(128, found + max(64, found // 8)) + 1, 0) > memory
    assert n_tried <= 15


@pytest.mark.slow
def test_the_longest_row_fits(checkpoint: Checkpoint) -> None:
    """A row of the longest length needs no more than there is, twice the length more; checkpointing makes room."""
    recipe = recipe_of(checkpoint("qwen3_vl"))
    plan = make_plan(recipe, memory_gb=0.03)
    roomier = make_plan(recipe_of(checkpoint("qwen3_vl"), train__grad_checkpoint=True), memory_gb=0.03)
    backbone, _ = load_model(recipe, find_model(recipe), is_abstract=True)
    planner = Planner(recipe, backbone, plan.memory)
    assert plan.longest is not None
    assert roomier.longest is not None
    needs = [planner.need(length, 0.5) for length in (plan.longest, 2 * plan.longest)]

    assert needs[0] <= plan.memory < needs[1]
    assert roomier.longest >= plan.longest


def test_a_trained_tower_counts(checkpoint: Checkpoint) -> None:
    """Its gradients and its optimizer are there; what is planned leaves nothing behind in the model."""
    recipe = recipe_of(checkpoint("llava"), model__train_vision=True)
    backbone, _ = load_model(recipe, find_model(recipe), is_abstract=True)
    planner = Planner(recipe, backbone, 2**40)
    first, second = planner.need(64, 0.5), planner.need(64, 0.5)
    frozen = recipe_of(checkpoint("llava"))

    assert first == second
    assert first > Planner(frozen, load_model(frozen, find_model(frozen), is_abstract=True)[0], 2**40).need(64, 0.5)
    mx.eval(backbone.module.parameters())


@pytest.mark.parametrize("family", ["florence2", "idefics3", "minicpmo", "glm4v_moe", "gemma3n"])
def test_heads_are_found_unseen(family: str) -> None:
    """A blank model's head is the one that is found by comparing logits."""
    section = ModelSection(path=family)
    real, _ = prepare(build(FAMILIES[family]), describe_family(family), section)
    blank, _ = prepare(build(FAMILIES[family]), describe_family(family), section, is_abstract=True)

    assert real.head == blank.head


def test_the_fullest_phase_decides(tmp_path: Path) -> None:
    """A run needs what its steps, its validations and its answers need at most."""
    keys = {"model__path": "builtin:tiny-qwen3-vl", "data__path": "builtin:digits", "data__config": "digit"}
    keys |= {"data__valid_split": "test", "output__path": str(tmp_path / "a")}
    recipe = recipe_of(tmp_path, **keys, eval__answer_rows=40, eval__batch_size=40)
    plan = make_plan(recipe, memory_gb=0.001, n_rows=60, with_longest=False)
    validation, answers = plan.phases

    assert [validation.name, answers.name] == ["validation", "answers"]
    assert (validation.n_rows, answers.n_rows, answers.n_new_tokens) == (2, 40, 32)
    assert plan.fullest == "answers"
    assert plan.peak == answers.nbytes > plan.step_peak == sum(plan.parts.values()) > validation.nbytes
