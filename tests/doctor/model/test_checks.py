"""All checks of a model: a sound one passes, a damaged one fails at the line that says what is wrong."""

import functools
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from tests.arrays import load_arrays
from tests.checking import subject_of
from tests.checkpoints import FAMILIES as CHECKPOINTS
from tests.checkpoints import build_checkpoint
from tests.families import FAMILIES
from tests.prove import model_type
from vlora import parse_recipe
from vlora.doctor.checks import Outcome
from vlora.doctor.model import checks
from vlora.doctor.model.checks import CHECKS, FIRST, NAMES, Begun, check_model, run_check
from vlora.doctor.model.subject import LeftOut
from vlora.errors import CheckError, ModelError
from vlora.models.families.registry import describe_family

TRAINED = [name for name in FAMILIES if not describe_family(model_type(name)).refused]


def outcomes_of(model: Path, folder: Path) -> list[Outcome]:
    """Check a model's folder."""
    recipe = parse_recipe("", {"model.path": str(model), "data.path": "x", "output.path": str(folder / "run" / "a")})
    events = list(check_model(recipe, folder))
    begun = [event for event in events if isinstance(event, Begun)]
    outcomes = [event for event in events if isinstance(event, Outcome)]

    assert [event.name for event in begun] == [outcome.name for outcome in outcomes[: len(begun)]]
    assert [event.number for event in begun] == list(range(1, len(begun) + 1))
    return outcomes


@pytest.mark.parametrize(
    "family",
    ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in CHECKPOINTS if name != "llava")],
)
def test_a_sound_model_passes(family: str, tmp_path: Path) -> None:
    """Every line holds, or says why it is left out."""
    outcomes = outcomes_of(build_checkpoint(family, tmp_path / family), tmp_path)

    assert tuple(outcome.name for outcome in outcomes) == NAMES
    assert not [outcome for outcome in outcomes if not outcome.is_ok]
    assert all(outcome.found for outcome in outcomes)
    assert sum(outcome.is_left_out for outcome in outcomes) <= 2


@pytest.mark.families
@pytest.mark.parametrize("family", TRAINED)
def test_every_family_passes(family: str, tmp_path: Path) -> None:
    """The checks that need no processor hold of the tiny models of all families."""
    subject = subject_of(family)
    found = {name: run_check(name, functools.partial(check, subject, tmp_path)) for name, check in CHECKS.items()}

    assert not {name: outcome.found for name, outcome in found.items() if not outcome.is_ok}


def with_nan(weights: dict[str, mx.array]) -> None:
    """Let one number of a layer be none."""
    name = next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))
    values = weights[name]
    weights[name] = mx.where(mx.arange(values.size).reshape(values.shape) == 7, float("nan"), values)


def with_short_head(weights: dict[str, mx.array]) -> None:
    """Cut the head's last rows off."""
    name = next(name for name in weights if name.endswith("lm_head.weight"))
    weights[name] = weights[name][:-64]


def without_layer(weights: dict[str, mx.array]) -> None:
    """Lose a layer."""
    del weights[next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))]


@pytest.mark.parametrize(
    ("damage", "line", "told"),
    [
        (with_nan, "weights", "layers.0.mlp.up_proj.weight (1 of "),
        (with_short_head, "opens", "Expected shape"),
        (without_layer, "opens", "config.json and the weights have to be of one model"),
    ],
)
def test_a_damaged_folder_fails_at_its_line(
    damage: Callable[[dict[str, mx.array]], None], line: str, told: str, tmp_path: Path
) -> None:
    """What follows is not asked, and says which line to look at."""
    model = build_checkpoint("llava", tmp_path / "llava")
    weights = load_arrays(model / "model.safetensors")
    damage(weights)
    mx.eval(weights)
    mx.save_safetensors(str(model / "model.safetensors"), weights, metadata={"format": "mlx"})

    outcomes = outcomes_of(model, tmp_path)
    failed = [outcome for outcome in outcomes if not outcome.is_ok]

    assert [outcome.name for outcome in failed] == [line]
    assert told in failed[0].found
    assert tuple(outcome.name for outcome in outcomes) == NAMES
    behind = outcomes[NAMES.index(line) + 1 :]
    assert all(outcome.is_left_out and outcome.found == f"not checked; see {line}" for outcome in behind)


def test_what_a_later_check_finds_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks and all that follows are independent of one another."""

    def fail(*_: object) -> str:
        msg = "1 is not 2"
        raise CheckError(msg)

    monkeypatch.setattr(checks, "check_masks", fail)
    monkeypatch.setattr(checks, "CHECKS", {"images": fail, "rows": lambda *_: "3 of 3"})
    found = {
        outcome.name: outcome.is_ok for outcome in outcomes_of(build_checkpoint("llava", tmp_path / "m"), tmp_path)
    }

    assert found == {**dict.fromkeys(FIRST, True), "masks": False, "images": False, "rows": True}


def test_whatever_is_raised_is_an_outcome() -> None:
    """Vlora's own sentences begin with the command's argument, others name their kind; what is left out is neither."""

    def crash() -> str:
        msg = "list index out of range"
        raise IndexError(msg)

    def refuse() -> str:
        msg = "there is no folder 'x'"
        raise ModelError(msg, key="model.path")

    crashed, left = run_check("a", crash), run_check("b", lambda: LeftOut("it has none"))
    refused = run_check("c", refuse, {"model.path": "model"})

    assert (crashed.is_ok, crashed.found) == (False, "IndexError: list index out of range; report it")
    assert (left.is_ok, left.is_left_out, left.found) == (True, True, "it has none")
    assert (refused.is_ok, refused.found) == (False, "model: there is no folder 'x'")
