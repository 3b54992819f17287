"""Out of memory: recognized on every device, told with what would fit, and nothing that was saved is lost."""

import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import pytest

from tests.estimate.test_search import make_example
from tests.memory.test_shortage import MALLOC, SHAPE, TEXTS, make_too_large
from tests.runs import make_recipe, run
from tests.training import make_trainable
from vlora import TrainLoop, build, collate
from vlora.build import load_model
from vlora.cli.main import main
from vlora.errors import OutOfMemoryError
from vlora.estimate import planner as plans
from vlora.estimate import shortage
from vlora.estimate.shortage import advise
from vlora.models.generation import answering
from vlora.output import checkpoint
from vlora.output.checkpoint import load_state
from vlora.output.lock import exclusive_run_lock
from vlora.output.paths import STATE_NAME, output_paths
from vlora.recipe.parse import dump_recipe
from vlora.recipe.schema import Recipe
from vlora.run import feature_cache, start, validator
from vlora.train.state import init_state
from vlora.train.step import TrainStep
from vlora.types import TrainState

CheckpointFactory = Callable[[str], Path]


class Failing:
    """A step that runs out of memory when it is called for the n-th time."""

    def __init__(self, step: TrainStep, fails_at: int, error: Exception | None = None) -> None:
        self.step, self.fails_at, self.n_calls = step, fails_at, 0
        self.error = error or RuntimeError(MALLOC)

    def __getattr__(self, name: str) -> Any:
        """Be the real one in all else."""
        return getattr(self.step, name)

    def accumulate(self, *arguments: Any) -> Any:
        """Begin a step, or fail as MLX does."""
        self.n_calls += 1
        if self.n_calls == self.fails_at:
            raise self.error
        return self.step.accumulate(*arguments)


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let a step of the next runs fail; what is planned is traced by the real one."""

    def prepare(step: int) -> None:
        real = build.make_recipe_step
        monkeypatch.setattr(start, "make_recipe_step", lambda *given, **named: Failing(real(*given, **named), step))

    return prepare


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

    def opening(*arguments: Any, **keys: Any) -> Any:
        backbone, config = real(*arguments, **keys)
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

    monkeypatch.setattr(feature_cache.Features, "flush", fail)
    monkeypatch.setattr(shortage, "advise", lambda _, failed, saved: f"{failed.where}: {saved}")
    fail_at(1)
    with pytest.raises(OutOfMemoryError, match=r"^step 1: None$"):
        run(recipe)


@pytest.mark.parametrize(
    ("owner", "name", "where", "words"),
    [
        (start, "load_model", "loading the model", ["the model's weights need"]),
        (validator, "measure_sums", "validation", ["model.quantize_bits=4"]),
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
        Path(recipe.data.path or ""),
        Path(recipe.output.path),
        data__valid_fraction=0.3,
        eval__answer_rows=1,
        eval__max_new_tokens=2,
        **({} if name == "measure_sums" else {"train__val_batches": 1}),
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


def test_a_device_that_fails_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metal says so when a step's numbers are read: the step that is named is the one whose numbers those are."""

    class Unreadable:
        def __float__(self) -> float:
            raise RuntimeError(TEXTS[5])

    class Step:
        n_traces = 1
        backbone = SimpleNamespace(count_places=lambda batch: batch.tokens.size)

        def accumulate(self, state: TrainState, *_: Any) -> TrainState:
            return state

        def update(self, state: TrainState, *_: Any) -> Any:
            return state._replace(step=state.step + 1), (Unreadable(),) * 3

    monkeypatch.setattr(mx, "async_eval", lambda *_: None)
    loop = TrainLoop(cast("TrainStep", Step()), TrainState({}, {}, mx.array(0)), float, needs_sync=lambda _: False)
    batches = [[collate([make_example(number)])] for number in (5, 9)]
    with pytest.raises(OutOfMemoryError, match=r"^step 1: .*row of 5") as caught:
        list(loop.run(batches))

    assert caught.value.batch is batches[0][0]
