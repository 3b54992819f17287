"""Out of memory: recognized on every device, told with what would fit, and nothing that was saved is lost."""

import json
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from tests.run.test_fit import make_recipe, rows, run  # noqa: F401 - a fixture
from tests.training import make_trainable, picture
from vlora import Example, TrainLoop, build, collate, collate_packed
from vlora.build import load_model
from vlora.cli.main import main
from vlora.errors import OutOfMemoryError, VloraError
from vlora.estimate import plan as plans
from vlora.estimate import search as search_module
from vlora.estimate import shortage
from vlora.estimate.search import Search, first_rows
from vlora.estimate.shortage import advise
from vlora.memory.limits import device_kind, is_out_of_memory, naming_shortage
from vlora.models.generation import answering
from vlora.output import checkpoint
from vlora.output.checkpoint import load_state
from vlora.output.lock import exclusive_run_lock
from vlora.output.paths import STATE_NAME, output_paths
from vlora.recipe.parse import dump_recipe
from vlora.recipe.schema import Recipe
from vlora.run import start, validator
from vlora.train.state import init_state
from vlora.train.step import TrainStep
from vlora.types import Batch, TrainState

CheckpointFactory = Callable[[str], Path]
MALLOC = "[malloc] Unable to allocate 21474836480 bytes."
METAL = "[METAL] Command buffer execution failed"
TEXTS = [
    MALLOC,
    "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size of 1 bytes.",
    "[metal::malloc] Resource limit (499000) exceeded.",
    "cudaMallocAsync(&data, size, stream) failed: out of memory",
    "cudaGraphInstantiate(&handle_, graph, nullptr, nullptr, 0) failed: out of memory",
    f"{METAL}: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory).",
    "cudnn failed: CUDNN_STATUS_ALLOC_FAILED",
]
OTHERS = [
    f"{METAL}: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout).",
    "cublasLtMatmul failed with code: 14.",
    "[compile] Attempting to compile a function with uncaptured inputs is not allowed.",
    "cudaGraphLaunch(graph_exec, stream()) failed: an illegal memory access was encountered",
]


@pytest.mark.parametrize("text", TEXTS)
def test_recognized(text: str) -> None:
    """What MLX says on every device is recognized, and the error names what was computed."""
    with pytest.raises(OutOfMemoryError) as caught, naming_shortage("step 3"):
        raise RuntimeError(text)

    assert str(caught.value).startswith("step 3: out of memory (")
    assert caught.value.where == "step 3"
    assert not caught.value.is_host


@pytest.mark.parametrize("text", OTHERS)
def test_other_errors_stay_what_they_are(text: str) -> None:
    """No other error of MLX is taken for one about memory."""
    with pytest.raises(RuntimeError) as caught, naming_shortage("step 3"):
        raise RuntimeError(text)

    assert str(caught.value) == text
    assert not is_out_of_memory(ValueError(MALLOC))
    assert is_out_of_memory(MemoryError())


SHAPE = (
    "[reshape] Shape dimension 2717908992 is outside the supported range [-2147483648, 2147483647]. "
    "MLX currently uses 32-bit integers for shape dimensions."
)


def make_too_large(name: str) -> mx.array:
    """Let MLX refuse an array of more than 2^31 - 1 entries in a dimension, in one of the ways in which it does."""
    many = mx.broadcast_to(mx.zeros((1,)), (2**16, 2**15 + 1))
    half = mx.broadcast_to(mx.zeros((1,)), (2**30,))
    ways: dict[str, Callable[[], mx.array]] = {
        "reshape": lambda: many.reshape(-1),
        "flatten": many.flatten,
        "zeros": lambda: mx.zeros((2**31,)),
        "broadcast": lambda: mx.broadcast_to(half[:1], (2**31,)),
        "concatenate": lambda: mx.concatenate([half, half]),
        "repeat": lambda: mx.repeat(half, 2),
        "tile": lambda: mx.tile(half, 3),
        "pad": lambda: mx.pad(half, 2**30),
        "cumsum": lambda: mx.cumsum(many),
        "argmax": lambda: mx.argmax(many),
        "sort": lambda: mx.sort(many, axis=None),
        "arange": lambda: mx.arange(2**31 + 5),
        "slice": lambda: half[: 2**31],
        "random": lambda: mx.random.uniform(shape=(2**31,), key=mx.random.key(0)),
        "compiled": lambda: mx.compile(lambda x: x.reshape(-1))(many),
        "gradient": lambda: mx.grad(lambda x: x.reshape(-1).sum())(many),
    }
    return ways[name]()


@pytest.mark.parametrize(
    "name",
    [
        *("reshape", "flatten", "zeros", "broadcast", "concatenate", "repeat", "tile", "pad", "cumsum", "argmax"),
        *("sort", "arange", "slice", "random", "compiled", "gradient"),
    ],
)
def test_arrays_that_mlx_does_not_have(name: str) -> None:
    """Whatever refuses them, it is a batch that is too large; the error says so, and by how much."""
    with pytest.raises(OutOfMemoryError, match=r"^step 3: too large for MLX's arrays \(") as caught:  # noqa: SIM117
        with naming_shortage("step 3"):
            make_too_large(name)

    assert 2**31 <= caught.value.dimension < 2**32


@pytest.mark.parametrize(
    "words", ["[reshape] Cannot reshape array of size 10 into shape (-1,3).", "int too large to convert"]
)
def test_other_shapes_that_do_not_fit(words: str) -> None:
    """They are faults, and stay what they are."""
    for kind in (ValueError, OverflowError):
        with pytest.raises(kind), naming_shortage("step 3"):
            raise kind(words)
    assert not is_out_of_memory(VloraError(SHAPE))


class Failing:
    """A step that runs out of memory when it is called for the n-th time."""

    def __init__(self, step: TrainStep, fails_at: int, error: Exception | None = None) -> None:
        self.step, self.fails_at, self.n_calls = step, fails_at, 0
        self.error = error or RuntimeError(MALLOC)

    @property
    def n_traces(self) -> int:
        """Count those of the real one."""
        return self.step.n_traces

    def __call__(self, *arguments: Any) -> Any:
        """Take a step, or fail as MLX does."""
        self.n_calls += 1
        if self.n_calls == self.fails_at:
            raise self.error
        return self.step(*arguments)


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let a step of the next runs fail; what is planned is traced by the real one."""

    def prepare(step: int) -> None:
        real = build.make_recipe_step
        monkeypatch.setattr(start, "make_recipe_step", lambda *given, **named: Failing(real(*given, **named), step))

    return prepare


@pytest.fixture
def recipe(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> Recipe:  # noqa: F811
    """Make a recipe of six steps, saved every second one."""
    return make_recipe(
        checkpoint("qwen3_vl"), rows, tmp_path / "out" / "a.safetensors", train__batch_size=4, train__steps_per_eval=100
    )


def test_the_command(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, status 2; it names step, rows and what fits; the run goes on with what it says."""
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe))
    with pytest.MonkeyPatch.context() as patch:
        real = build.make_recipe_step
        patch.setattr(start, "make_recipe_step", lambda *given, **named: Failing(real(*given, **named), 4))
        status = main([str(file)])
    output, errors = capsys.readouterr()

    assert status == 2
    assert "step 4: out of memory; looking for what would fit" in output
    assert errors.startswith("vlora: step 4: out of memory on ")
    assert len(errors.splitlines()) == 1
    for words in (
        MALLOC.rstrip("."),
        "4 rows of 64 tokens",
        "rows.jsonl train row ",
        "go on with --resume --set train.grad_checkpoint=true (0.00",
        "begin anew",
        "--set train.batch_size=2 --set train.gradient_accumulation_steps=2 (0.00",
        "what was saved after step 3 is whole",
    ):
        assert words in errors
    with exclusive_run_lock(output_paths(recipe).folder):
        pass
    assert main([str(file), "--resume", "--set", "train.grad_checkpoint=true"]) == 0
    assert "going on after step 3" in capsys.readouterr().out


def test_a_batch_that_is_too_large_for_mlx(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends as lack of memory does; what is proposed has few enough tokens, and nothing else is."""
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe))
    with pytest.MonkeyPatch.context() as patch:
        real = build.make_recipe_step
        patch.setattr(
            start, "make_recipe_step", lambda *given, **named: Failing(real(*given, **named), 4, OverflowError(SHAPE))
        )
        status = main([str(file)])
    output, errors = capsys.readouterr()

    assert status == 2
    assert "step 4: too large for MLX's arrays; looking for what would fit" in output
    assert errors.startswith("vlora: step 4: too large for MLX's arrays on ")
    assert len(errors.splitlines()) == 1
    for words in (
        "Shape dimension 2717908992",
        "at most 202 tokens of 4 rows of 64 tokens",
        "--set train.batch_size=2 --set train.gradient_accumulation_steps=2 (0.00",
        "what was saved after step 3 is whole",
    ):
        assert words in errors
    assert "grad_checkpoint" not in errors
    assert "quantize_bits" not in errors
    assert main([str(file), "--resume", "--set", "train.batch_size=2"]) in (0, 2)


def test_a_plan_of_arrays_that_mlx_does_not_have(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer rows are only said not to fit; the plan of such a batch is refused in words."""
    monkeypatch.setattr(plans, "trace_step", lambda *_: make_too_large("reshape"))
    backbone, _ = load_model(recipe, build.find_model(recipe), is_abstract=True)
    planner = plans.Planner(recipe, backbone, 10**9)

    assert planner.need(128, 0.5) == plans.UNPLANNABLE
    with pytest.raises(OutOfMemoryError, match=r"^planning a step: too large for MLX's arrays with 4 rows"):
        planner.parts(planner.rows_of(128, 0.5))


def test_text_of_one_row_that_is_too_large(recipe: Recipe, tmp_path: Path) -> None:
    """It is cut to what MLX has, and not to half of it."""
    recipe = make_recipe(
        Path(recipe.model.path), Path(recipe.data.path), tmp_path / "o.safetensors", train__batch_size=1
    )
    batch = collate([make_example(900)])
    message = advise(recipe, OutOfMemoryError("step 1", SHAPE, batch, dimension=2717908992), None)
    found = re.search(r"--set data.max_seq_length=(\d+) \(", message)

    assert found is not None
    assert 700 < int(found[1]) <= batch.tokens.size * (2**31 - 1) // 2717908992


def test_what_was_saved_is_whole(
    recipe: Recipe, fail_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training state is that of the steps before."""
    monkeypatch.setattr(shortage, "advise", lambda *_: "step 4")
    fail_at(4)
    with pytest.raises(OutOfMemoryError):
        run(recipe)
    trainable = make_trainable(Path(recipe.model.path))
    template = init_state(trainable.backbone, trainable.optimizer)

    assert int(load_state(output_paths(recipe).folder / STATE_NAME, template).step) == 3


def test_the_failed_run_is_let_go_of_first(
    recipe: Recipe, fail_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the model is there any more when what would fit is looked for."""
    models: list[weakref.ref[Any]] = []
    left: list[bool] = []
    real = load_model

    def opening(*arguments: Any) -> Any:
        backbone, config = real(*arguments)
        models.append(weakref.ref(backbone.module))
        return backbone, config

    def advising(_: Recipe, failed: OutOfMemoryError, __: int | None) -> str:
        left.append(models[0]() is not None)
        return failed.where

    monkeypatch.setattr(start, "load_model", opening)
    monkeypatch.setattr(shortage, "advise", advising)
    fail_at(3)
    with pytest.raises(OutOfMemoryError, match="step 3"):
        run(recipe)

    assert left == [False]


def test_features_do_not_hide_it(
    recipe: Recipe, fail_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where features cannot be written for want of memory either, the step's error is the one that is told."""

    def fail(_: Any) -> None:
        raise RuntimeError(MALLOC)

    monkeypatch.setattr(build.Features, "flush", fail)
    monkeypatch.setattr(shortage, "advise", lambda _, failed, saved: f"{failed.where}: {saved}")
    fail_at(1)
    with pytest.raises(OutOfMemoryError, match=r"^step 1: None$"):
        run(recipe)


@pytest.mark.parametrize(
    ("owner", "name", "where", "words"),
    [
        (start, "load_model", "loading the model", ["the model's weights need"]),
        (validator, "evaluate", "validation", ["model.quantize_bits=4"]),
        (answering, "decode", "answering rows before training", ["--set eval.answer_rows=0"]),
        (checkpoint, "save_state", "saving", ["nothing has been saved yet"]),
    ],
    ids=["loading", "validation", "answers", "saving"],
)
def test_everywhere(
    owner: Any, name: str, where: str, words: list[str], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading, validation, answers and saving name themselves."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(MALLOC)

    monkeypatch.setattr(owner, name, fail)
    recipe = make_recipe(
        Path(recipe.model.path),
        Path(recipe.data.path),
        Path(recipe.output.path),
        data__valid_fraction=0.3,
        eval__answer_rows=1,
        eval__max_new_tokens=2,
        **({} if name == "evaluate" else {"train__val_batches": 1}),
        train__steps_per_eval=100,
    )
    with pytest.raises(OutOfMemoryError) as caught:
        run(recipe)

    assert str(caught.value).startswith(f"{where}: out of memory on ")
    for found in words:
        assert found in str(caught.value)


def test_the_host_has_no_memory(recipe: Recipe) -> None:
    """Rows that do not fit into the host's memory are another thing than a batch that does not fit the device."""
    failed = OutOfMemoryError("reading the rows of step 2", "Unable to allocate 9 GiB", is_host=True)
    message = advise(recipe, failed, 1)

    assert message.startswith("reading the rows of step 2: out of host memory on ")
    assert "lower data.workers to 1" in message
    assert "go on with --resume" in message


def make_example(n_tokens: int) -> Example:
    """Make a row of text."""
    places = np.arange(n_tokens, dtype=np.int32)
    return Example(f"row of {n_tokens}", np.full_like(places, 2), places > n_tokens // 2, places < 0)


def test_a_device_that_fails_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metal says so when a step's numbers are read: the step that is named is the one whose numbers those are."""

    class Unreadable:
        def __float__(self) -> float:
            raise RuntimeError(TEXTS[5])

    class Step:
        n_traces = 1

        def __call__(self, state: TrainState, *_: Any) -> Any:
            return state._replace(step=state.step + 1), (Unreadable(),) * 3

    monkeypatch.setattr(mx, "async_eval", lambda *_: None)
    loop = TrainLoop(cast("TrainStep", Step()), TrainState({}, {}, mx.array(0)), float, needs_sync=lambda _: False)
    batches = [[collate([make_example(number)])] for number in (5, 9)]
    with pytest.raises(OutOfMemoryError, match=r"^step 1: .*row of 5") as caught:
        list(loop.run(batches))

    assert caught.value.batch is batches[0][0]


def test_first_rows() -> None:
    """Fewer rows of a batch: the longest ones, packed as they were."""
    examples = [make_example(number) for number in (5, 40, 9)]
    packed = collate_packed([[examples[0], examples[2]], [examples[1]]], 2)

    assert [row.source for row in first_rows(collate(examples), 2).rows] == ["row of 40", "row of 9"]
    fewer: Batch = first_rows(packed, 1)
    assert [row.source for row in fewer.rows] == ["row of 40"]
    assert fewer.segment_ids is not None
    assert fewer.tokens.shape[0] == 1


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
    recipe = make_recipe(Path(recipe.model.path), Path(recipe.data.path), tmp_path / "o.safetensors", **keys)
    batch = collate([make_example(900)])
    message = advise(recipe, OutOfMemoryError("step 1", MALLOC, batch), None)

    for found in words:
        assert found in message
    assert "batch_size" not in message
    assert ("grad_checkpoint" in message) != recipe.train.grad_checkpoint


@pytest.mark.slow
def test_images_are_made_smaller(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
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


@pytest.mark.skipif(device_kind() != "cpu", reason="elsewhere MLX says so itself")
def test_a_cpu_is_not_asked_for_what_it_does_not_have(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that needs more than the process may have is refused before it runs: MLX would crash on it."""
    monkeypatch.setattr(shortage, "process_memory", lambda: 10**6)
    monkeypatch.setattr(TrainLoop, "_describe", lambda *_: pytest.fail("the step was begun"))
    with pytest.raises(OutOfMemoryError, match=r"a step: out of memory .*\(it would take .* may have 0\.001 GB"):
        run(recipe)


def test_what_fits_by_far_is_not_planned(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of usual sizes pay nothing for it."""
    monkeypatch.setattr(shortage, "_refuse_too_large", lambda *_: pytest.fail("a step was planned"))
    assert run(recipe)


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
