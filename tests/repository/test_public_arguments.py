"""Slips in programs and notebooks: each public function says in one sentence what it was given, and what to give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest

import vlora
from tests.runs import make_recipe
from tests.training import picture
from vlora.build import Data

ROWS = [{"image": picture(32, 32, number), "question": "What?", "answer": str(number)} for number in range(4)]


@attrs.frozen
class Loop:
    """What a loop of one's own has made before its first step."""

    folder: Path
    recipe: vlora.Recipe
    data: Data
    backbone: Any
    optimizer: Any
    state: vlora.TrainState
    batch: vlora.Batch

    def step(self, **options: Any) -> Any:
        """Make a step."""
        return vlora.make_train_step(self.backbone, self.optimizer, compiled=False, **options)

    def take(self, loss: Any) -> Any:
        """Take a step with a loss."""
        return self.step(loss=loss)(self.state, self.batch, 1e-3)


@pytest.fixture(scope="module")
def loop(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """Begin a loop."""
    folder = tmp_path_factory.mktemp("loop")
    recipe = make_recipe(checkpoint("qwen3_vl"), folder / "rows.jsonl", folder / "out")
    data = vlora.load_data(recipe, ROWS)
    backbone, _ = vlora.load_model(recipe, data.files)
    optimizer = vlora.make_optimizer(recipe.optim)
    state = vlora.init_state(backbone, optimizer)
    return Loop(folder, recipe, data, backbone, optimizer, state, vlora.collate([data.encoder(data.train[0])]))


class Frame:
    """A table by columns, as pandas has it."""

    columns = ("question", "answer")

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        """Give the rows."""
        raise NotImplementedError(orient)


SLIPS: dict[str, tuple[Callable[[Loop], Any], type[Exception], str]] = {
    "a recipe's name": (lambda _: vlora.parse_recipe("my.toml"), ValueError, "give the text of the file, not its name"),
    "a recipe's path": (lambda _: vlora.parse_recipe(Path("my.toml")), TypeError, "PosixPath; give the recipe's text"),  # type: ignore[arg-type]
    "overrides in sections": (
        lambda _: vlora.parse_recipe('data.path = "rows.jsonl"', {"train": {"iters": 3}}),
        ValueError,
        r"train: found a dict; .*'train\.iters'",
    ),
    "overrides as options": (lambda _: vlora.parse_recipe("", ["train.iters=3"]), TypeError, "list; give a dict"),  # type: ignore[arg-type]
    "a recipe's name to fit": (lambda _: next(vlora.fit("my.toml")), TypeError, "fit: .* str; give a Recipe"),  # type: ignore[arg-type]
    "a recipe to watch": (lambda loop: vlora.watch(loop.recipe), TypeError, r"watch\(fit\(recipe\)\)"),  # type: ignore[arg-type]
    "a recipe's name to load": (lambda _: vlora.load_data("my.toml"), TypeError, "give a Recipe"),  # type: ignore[arg-type]
    "rows' name": (lambda loop: vlora.load_data(loop.recipe, "rows.jsonl"), ValueError, "str; set data.path"),  # type: ignore[arg-type]
    "rows by columns": (lambda loop: vlora.load_data(loop.recipe, {"answer": []}), ValueError, "a list of dicts"),  # type: ignore[dict-item]
    "rows of pandas": (lambda loop: vlora.load_data(loop.recipe, Frame()), ValueError, r"Frame; .*to_dict\('records'"),  # type: ignore[arg-type]
    "data for a model's files": (
        lambda loop: vlora.load_model(loop.recipe, loop.data),  # type: ignore[arg-type]
        TypeError,
        r"Data; give data\.files",
    ),
    "a text as a row": (lambda _: vlora.format_sample("What?"), TypeError, "str; give a dict"),  # type: ignore[arg-type]
    "a row to encode": (lambda loop: loop.data.encoder(ROWS[0]), TypeError, "dict; give a Sample"),  # type: ignore[arg-type]
    "samples to collate": (lambda loop: vlora.collate([loop.data.train[0]]), TypeError, "Sample; give Examples"),  # type: ignore[list-item]
    "one example": (
        lambda loop: vlora.collate(loop.data.encoder(loop.data.train[0])),  # type: ignore[arg-type]
        TypeError,
        "Example; give a list",
    ),
    "rows to divide": (
        lambda loop: vlora.epoch_batches(loop.data.train, 2, seed=0, epoch=0, shuffle=True),  # type: ignore[arg-type]
        TypeError,
        r"len\(data\.train\)",
    ),
    "empty batches": (
        lambda _: vlora.epoch_batches(4, 0, seed=0, epoch=0, shuffle=True),
        ValueError,
        "batch_size: found 0; give 1",
    ),
    "an optimizer's name": (lambda _: vlora.make_optimizer("adamw"), TypeError, r"recipe\.optim"),  # type: ignore[arg-type]
    "a step before the first": (
        lambda loop: vlora.make_schedule(loop.recipe.optim, 9)(0),
        ValueError,
        "counted from 1: found 0; give 1",
    ),
    "a section for an optimizer": (
        lambda loop: vlora.make_train_step(loop.backbone, loop.recipe.optim),
        TypeError,
        "OptimSection; give one as make_optimizer makes it",
    ),
    "a loss's name": (lambda loop: loop.step(loss="sft"), TypeError, "the loss: .* str; .*find_objective"),
    "no norm": (lambda loop: loop.step(max_grad_norm=0), ValueError, "found 0; give a norm above 0"),
    "a loss of one value": (
        lambda loop: loop.take(lambda logits, *_: logits.sum()),
        TypeError,
        "the loss returned arr",
    ),
    "a loss by token": (
        lambda loop: loop.take(lambda logits, _, weights: (logits.sum(-1), weights)),
        TypeError,
        r"\(\)",
    ),
    "a loss that returns nothing": (lambda loop: loop.take(lambda *_: None), TypeError, "returned NoneType; return"),
    "an objective by token": (
        lambda loop: loop.take(vlora.Objective(lambda logprobs, targets: (-logprobs, targets.weights.sum()))),
        TypeError,
        "the loss returned",
    ),
    "state and batch exchanged": (
        lambda loop: loop.step()(loop.batch, loop.state, 1e-3),
        TypeError,
        "Batch; give what",
    ),
    "rows in a step": (lambda loop: loop.step()(loop.state, ROWS, 1e-3), TypeError, "dict; give a Batch, as collate"),
    "a schedule as a rate": (
        lambda loop: loop.step()(loop.state, loop.batch, vlora.make_schedule(loop.recipe.optim, 9)),
        TypeError,
        "learning_rate: found a value of type partial; give a number",
    ),
    "a rate that is not a number": (
        lambda loop: loop.step()(loop.state, loop.batch, float("nan")),
        ValueError,
        "found nan; give a finite number",
    ),
    "a negative rate": (lambda loop: loop.step()(loop.state, loop.batch, -1e-3), ValueError, "found -0.001; give"),
    "a folder for a state": (
        lambda loop: vlora.save_state(loop.folder, loop.state),
        ValueError,
        "it is a folder; name",
    ),
    "a state's name without an ending": (
        lambda loop: vlora.save_state(loop.folder / "mine" / "last", loop.state),
        ValueError,
        r"mine/last: its name does not end in \.safetensors; name a file",
    ),
    "an adapter's name without an ending": (
        lambda loop: vlora.save_adapter(loop.folder / "mine" / "last", loop.state.params, {}),
        ValueError,
        r"mine/last: its name does not end in \.safetensors; name a file",
    ),
    "a state for an adapter's arrays": (
        lambda loop: vlora.save_adapter(loop.folder / "a.safetensors", loop.state, {}),  # type: ignore[arg-type]
        TypeError,
        r"TrainState; .*state\.params",
    ),
    "a loss's name to validate by": (
        lambda loop: vlora.make_eval_step(loop.backbone, loss="sft"),  # type: ignore[arg-type]
        TypeError,
        "the loss: .* str",
    ),
    "state and batch exchanged in a validation": (
        lambda loop: vlora.make_eval_step(loop.backbone, compiled=False)(loop.batch, loop.state),  # type: ignore[arg-type]
        TypeError,
        "Batch; give what init_state",
    ),
    "parameters for a state": (
        lambda loop: vlora.save_state(loop.folder / "a.safetensors", loop.state.params),
        TypeError,
        "dict; give the state",
    ),
    "a model to load a state like": (
        lambda loop: vlora.load_state(loop.folder / "state", loop.backbone),
        TypeError,
        "give a state of the same run",
    ),
    "a row to answer": (
        lambda loop: vlora.answer(loop.backbone, loop.data.encoder, ROWS[0]),  # type: ignore[arg-type]
        TypeError,
        "dict; give a Sample",
    ),
    "data to answer": (
        lambda loop: vlora.answer(loop.backbone, loop.data, loop.data.train[0]),  # type: ignore[arg-type]
        TypeError,
        r"Data; give data\.encoder",
    ),
    "rows to predict": (
        lambda loop: list(vlora.predict(loop.backbone, loop.data.encoder, ROWS)),  # type: ignore[arg-type]
        TypeError,
        r"dict; give data\.valid",
    ),
    "no tokens": (
        lambda _: vlora.AnswerOptions(max_new_tokens=0),
        ValueError,
        "max_new_tokens: found 0; give 1 or more",
    ),
    "a text of a number": (
        lambda _: vlora.AnswerOptions(batch_size="8"),  # type: ignore[arg-type]
        TypeError,
        "batch_size: .* str; give a number",
    ),
    "a temperature below 0": (
        lambda _: vlora.AnswerOptions(temperature=-1),
        ValueError,
        "temperature: found -1; give 0",
    ),
    "a metric's name": (lambda _: vlora.find_metrics("anls"), ValueError, r"the text 'anls'; give a list .*\['anls'\]"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named(slip: str, loop: Loop) -> None:
    """It is refused where it is made, with what was found and what to give; none is carried out in silence."""
    call, kind, words = SLIPS[slip]
    with pytest.raises(kind, match=words) as caught:
        call(loop)

    assert "\n" not in str(caught.value)
    assert not list(loop.folder.rglob("*"))


def test_what_is_right_is_taken(loop: Loop) -> None:
    """Numbers of other types, tuples and generators of batches are what they stand for."""
    first = loop.step()(loop.state, (batch for batch in [loop.batch, loop.batch]), mx.array(1e-3))[1]
    again = loop.step(max_grad_norm=1)(loop.state, (loop.batch, loop.batch), 0)[1]

    assert float(first.nll_sum) == float(again.nll_sum) > 0
    for batches in ([loop.batch], [[loop.batch]]):
        steps = vlora.TrainLoop(loop.step(), loop.state, lambda _: 1e-3, needs_sync=lambda _: True).run(batches)
        assert [report.loss for _, report in steps if report] == [
            pytest.approx(float(first.nll_sum / first.n_supervised))
        ]
    step = vlora.make_eval_step(loop.backbone, compiled=False)
    assert vlora.evaluate(step, loop.state, loop.batch) == vlora.evaluate(step, loop.state, [loop.batch])
    assert vlora.collate((loop.data.encoder(loop.data.train[0]),)).tokens.shape[0] == 1
