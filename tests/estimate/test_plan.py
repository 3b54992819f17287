"""The plan of a recipe: what a step takes, predicted from shapes, beside what it takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from benchmarks.memory import Case, run_case
from benchmarks.shapes import SHAPES
from tests.families import FAMILIES, build
from vlora import parse_recipe
from vlora.build import find_model, load_model
from vlora.cli.main import main
from vlora.estimate.graph import Array, Graph, Node, compile_tape, schedule
from vlora.estimate.liveness import Queue, is_matrix, peak_memory
from vlora.estimate.plan import Planner, blank_example, find_queue, make_plan
from vlora.estimate.stand_ins import attention_in_kernels
from vlora.estimate.trace import trace
from vlora.memory.command_buffers import MB_VARIABLE, OPS_VARIABLE
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.ops.quantized import count_parameters
from vlora.recipe.schema import MemorySection, ModelSection

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
    plan = make_plan(recipe_of(tmp_path, **keys, output__path=str(tmp_path / "a")), memory_gb=0.001)

    assert plan.rows == "the longest of the first 32 rows"
    assert plan.n_trainable < plan.n_params / 10
    assert plan.peak > plan.parts["weights"] > 0


@pytest.mark.parametrize("on_bad_row", ["raise", "skip"])
def test_a_plan_of_rows_that_are_all_bad(on_bad_row: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Where no row can be read a plan says why and takes the longest there could be, skipping or not."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": "none.png", "question": "q", "answer": "a"}\n' * 3)
    keys = {"data__path": str(rows), "data__on_bad_row": on_bad_row}
    plan = make_plan(recipe_of(checkpoint("qwen3_vl"), **keys), memory_gb=0.03)

    assert "rows.jsonl train row" in plan.rows
    assert "none.png" in plan.rows


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


def test_the_command_line(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` prints the parts and ends with 2 where they do not fit."""
    settings = (f"model.path={checkpoint('qwen3_vl')}", "data.path=none.jsonl", "data.max_seq_length=64")
    keys = [word for setting in settings for word in ("--set", setting)]

    assert main(["plan", *keys, "--memory-gb", "0.02"]) == 0
    text = capsys.readouterr().out
    for word in ("weights", "optimizer", "activations", "head and loss", "peak", "fits into 20.00 MB", "longest rows"):
        assert word in text
    assert main(["plan", *keys, "--memory-gb", "1e-4"]) == 2
    assert "does not fit into 100.00 kB" in capsys.readouterr().out


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


def tape_of(*lines: tuple[str, str, str], outputs: str, size: int = 4) -> Graph:
    """Write a tape of arrays of one size: (operation, what it reads, what it gives)."""
    nodes = tuple(Node(name, "", tuple(given), (made,)) for name, given, made in lines)
    names = {array for node in nodes for array in (*node.inputs, *node.outputs)}
    made = {array for node in nodes for array in node.outputs}
    return Graph(
        arrays={name: Array((size, size), 4) for name in names},
        nodes=nodes,
        inputs=tuple(sorted(names - made)),
        outputs=tuple(outputs),
    )


def test_buffers_are_taken_over_and_given_up() -> None:
    """An elementwise chain has one buffer; a product needs one of its own; what is queued holds on to what it reads."""
    one = 4 * 4 * 4
    chain = tape_of(("Exp", "a", "b"), ("Sin", "b", "c"), ("Cos", "c", "d"), outputs="d")
    products = tape_of(("Matmul", "ab", "c"), ("Matmul", "cb", "d"), ("Matmul", "db", "e"), outputs="e")

    assert peak_memory(chain).nbytes == one
    assert peak_memory(chain, held="a").nbytes == 2 * one
    assert peak_memory(products, held="ab").nbytes == 4 * one
    assert peak_memory(products, held="ab", queue=Queue(n_tasks=9)).nbytes == 5 * one
    assert peak_memory(products, held="ab", queue=Queue(n_tasks=9, limit=0)).nbytes == 4 * one


def test_portions_are_counted_as_mlx_does() -> None:
    """A portion ends after so many operations or so many numbers: all that is read, or, on a Mac, each buffer once."""
    lines = [("Matmul", "ab", "c"), ("Matmul", "cb", "d"), ("Matmul", "db", "e"), ("Matmul", "eb", "f")]
    tape = tape_of(*lines, outputs="f")
    one, size = 4 * 4 * 4, 4 * 4

    def buffers(**queue: Any) -> int:
        return peak_memory(tape, held="ab", queue=Queue(n_tasks=1, **queue)).nbytes // one

    # c, d and e wait for the end of their portion.
    assert buffers(n_operations=9) == 6
    assert buffers(n_operations=1) == buffers(n_operations=9, n_elements=3 * size) == 5
    assert buffers(n_operations=0) == buffers(n_operations=9, n_elements=size) == 4
    # The first knows a, b and c, each one after it one more.
    assert buffers(n_operations=9, n_elements=3 * size, counts_buffers=True) == 5
    assert buffers(n_operations=9, n_elements=5 * size, counts_buffers=True) == 6


def test_what_is_repeated_is_counted_once() -> None:
    """A number that was broadcast is one number that is read; half of a matrix is half of it."""
    shapes = {"a": (4, 4), "one": (1,), "many": (4, 4), "top": (2, 4), "low": (2, 4)}
    shapes |= dict.fromkeys("xyz", (4, 4))
    nodes = (
        Node("Broadcast", "", ("one",), ("many",)),
        Node("Split", "", ("a",), ("top", "low")),
        Node("ScatterAxis", "", ("many", "top", "low"), ("x",)),
        Node("Matmul", "", ("x", "a"), ("y",)),
        Node("Matmul", "", ("y", "a"), ("z",)),
    )
    tape = Graph(
        arrays={name: Array(shape, 4) for name, shape in shapes.items()}, nodes=nodes, inputs=("a", "one"), outputs="z"
    )
    held = 4 * 4 * 4 + 4

    # Read are 1 + 8 + 8 numbers, then 32.
    queues = [Queue(n_operations=9, n_elements=most, n_tasks=1) for most in (17 + 32, 17 + 31)]
    waiting, done = (peak_memory(tape, held=("a", "one"), queue=queue).nbytes - held for queue in queues)

    assert (waiting, done) == (3 * 64, 2 * 64)


def test_a_limit_does_not_drain_the_portion_that_is_being_filled() -> None:
    """MLX waits for portions that it has handed over; what the one that it fills reads stays all the same."""
    lines = [("Matmul", f"{made}z", after) for made, after in zip("abcdefg", "bcdefgh", strict=True)]
    tape = tape_of(*lines, outputs="h")
    one = 4 * 4 * 4

    def buffers(n_operations: int, limit: int) -> int:
        queue = Queue(n_operations=n_operations, n_tasks=3, limit=limit)
        return peak_memory(tape, held="az", queue=queue).nbytes // one

    # What a portion of two reads and gives; without a limit, two portions more; at once, nothing is waited for.
    assert buffers(1, limit=0) == 2 + 3
    assert buffers(1, limit=2**62) == 2 + 6
    assert buffers(9, limit=0) == 2 + 7


@pytest.mark.parametrize(
    ("capability", "memory", "key", "environment", "expected"),
    [
        ((9, 0), 80, None, {}, (100, 400)),
        ((9, 0), 80, 200, {MB_VARIABLE: "300"}, (100, 200)),
        ((9, 0), 80, None, {MB_VARIABLE: "300", OPS_VARIABLE: "7"}, (7, 300)),
        ((9, 0), 80, None, {MB_VARIABLE: "none"}, (100, 0)),
        ((12, 0), 32, None, {}, (100, 160)),
        ((8, 0), 80, None, {}, (20, 400)),
        ((12, 1), 128, None, {}, (20, 25)),
        ((8, 9), 24, None, {}, (20, 100)),
    ],
)
def test_the_queue_of_a_run(
    capability: tuple[int, int],
    memory: int,
    key: int | None,
    environment: dict[str, str],
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan counts on the portions that a run on this machine will have."""
    info = {"compute_capability_major": capability[0], "compute_capability_minor": capability[1]}
    monkeypatch.setattr("vlora.estimate.plan.device_kind", lambda: "cuda")
    monkeypatch.setattr(mx, "device_info", lambda: {**info, "total_memory": memory * 2**30})
    for name in (MB_VARIABLE, OPS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    queue = find_queue(MemorySection(max_mb_per_buffer=key))

    # One more operation, or a whole "MB" of numbers more, ends a portion.
    assert (queue.n_operations, queue.n_elements) == (expected[0], (expected[1] + 1) * 2**20 - 1)
    assert not queue.counts_buffers


@pytest.mark.parametrize(("letter", "expected"), [("p", (20, 40)), ("g", (40, 40)), ("s", (50, 50)), ("d", (50, 50))])
def test_the_queue_of_a_mac(letter: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac's portions go by its kind of chip, and not by the recipe."""
    monkeypatch.setattr("vlora.estimate.plan.device_kind", lambda: "metal")
    monkeypatch.setattr(mx, "device_info", lambda: {"architecture": f"applegpu_g16{letter}"})
    for name in (MB_VARIABLE, OPS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    queue = find_queue(MemorySection(max_mb_per_buffer=7))

    assert (queue.n_operations, queue.n_elements) == (expected[0], (expected[1] + 1) * 2**20 - 1)
    assert queue.counts_buffers


def test_several_results_take_over_nothing() -> None:
    """MLX lets each of several results hold on to all inputs, so a fused operation with two takes buffers of its own.

    An update of weights and moments is such an operation: the old ones are there until it has run.
    """
    one = 4 * 4 * 4
    single = tape_of(("Compiled", "ab", "c"), outputs="c")
    double = attrs.evolve(single, nodes=(Node("Compiled", "", ("a", "b"), ("c", "d")),), outputs=("c", "d"))
    double = attrs.evolve(double, arrays={**double.arrays, "d": Array((4, 4), 4)})

    def measure(make: Any) -> float:
        mx.eval(given := [mx.random.normal((2**18,), key=mx.random.key(number)) for number in range(2)])
        mx.synchronize()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        made = make(given.pop(), given.pop())
        mx.eval(made)
        return max(0, mx.get_peak_memory() - before) / 2**20

    fused = [mx.compile(lambda a, b: mx.exp(a) * b + 1), mx.compile(lambda a, b: (mx.exp(a) * b, mx.sin(b) + a))]
    for function in fused:
        # Traced beforehand.
        measure(function)

    assert [peak_memory(tape).nbytes // one for tape in (single, double)] == [2, 4]
    assert [round(measure(function)) for function in fused] == [0, 2]


def test_compiling_merges_and_fuses() -> None:
    """Equal operations become one, elementwise ones too; what is read elsewhere keeps its own."""
    tape = tape_of(
        ("Exp", "a", "b"), ("Exp", "a", "c"), ("Add", "bc", "d"), ("Sin", "d", "e"), ("Matmul", "de", "f"), outputs="f"
    )
    names = [node.name for node in schedule(compile_tape(tape))]

    assert sorted(names) == ["Compiled", "Matmul", "Sin"]
    assert names[-1] == "Matmul"


def test_matrices() -> None:
    """Rows, or columns, without gaps."""
    assert is_matrix((2, 3, 4), (12, 4, 1))
    assert is_matrix((2, 4, 3), (12, 1, 4))
    assert not is_matrix((2, 3, 4), (4, 8, 1))
    assert not blank_example(8, 0.5).supervised[0]


def test_attention_without_scores() -> None:
    """What stands in for CUDA's attention has its shape, its three gradients, and no array of places by places."""
    queries, keys, values = mx.zeros((2, 4, 48, 8)), mx.zeros((2, 2, 64, 8)), mx.zeros((2, 2, 64, 8))

    def total(given: dict[str, mx.array]) -> mx.array:
        def attend(*inputs: mx.array) -> mx.array:
            return attention_in_kernels(*inputs, scale=1.0, mask="causal").sum()

        return mx.grad(attend, argnums=(0, 1, 2))(given["q"], given["k"], given["v"])

    tape, _ = trace(total, {"q": queries, "k": keys, "v": values})

    assert attention_in_kernels(queries, keys, values, scale=1.0).shape == queries.shape
    assert [tape.arrays[name].shape for name in tape.outputs] == [queries.shape, keys.shape, values.shape]
    assert not [array for array in tape.arrays.values() if array.shape[-2:] == (48, 64)]
