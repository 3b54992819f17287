"""Steps whose gradients are wrong are found."""

from typing import Any

import mlx.core as mx
import pytest

from tests.checking import subject_of, with_forward
from vlora import loss_fn
from vlora.doctor.model import steps
from vlora.doctor.model.subject import LeftOut
from vlora.errors import CheckError
from vlora.models.forward.lm_inputs import LMInputs
from vlora.train.step import make_train_step


def test_a_compiled_step_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and eager steps agree; where the compiled one has other weights in its loss they do not."""
    subject = subject_of("llava")

    assert "in both, gradients off by" in str(steps.check_compiled(subject))

    def heavier(logits: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
        total, count = loss_fn(logits, targets, weights)
        return 1.1 * total, count

    def make(*given: Any, compiled: bool) -> Any:
        return make_train_step(*given, compiled=False, loss=heavier if compiled else loss_fn)

    monkeypatch.setattr(steps, "make_train_step", make)

    with pytest.raises(CheckError, match=r"the compiled step has the loss .* and the eager one .*; report it"):
        steps.check_compiled(subject)


def test_a_family_that_runs_eagerly_is_left_out() -> None:
    """What is not compiled is not compared, with the family's reason."""
    subject = subject_of("llava")
    with_forward(subject, lambda logits, _: logits, eager="its loops end by their values")

    assert steps.check_compiled(subject) == LeftOut("its step is not compiled: its loops end by their values")


def half_learned(logits: mx.array, _: LMInputs) -> mx.array:
    """Hide half of a forward from its gradient."""
    return 0.5 * logits + 0.5 * mx.stop_gradient(logits)


def unlearned(logits: mx.array, _: LMInputs) -> mx.array:
    """Hide all of it."""
    return mx.stop_gradient(logits)


def infinite(logits: mx.array, _: LMInputs) -> mx.array:
    """Have a root whose gradient at 0 is infinite."""
    return logits + mx.sqrt(0 * logits)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (half_learned, r"the gradient of .* is .*, the loss changes along it by .*: the gradient is wrong"),
        (unlearned, r"none of 28 trained parameters has a gradient; give other lora.targets"),
        (infinite, r"28 of 28 parameters have gradients that are not finite, .* first; convert the model"),
    ],
)
def test_a_wrong_gradient_is_found(damage: Any, told: str) -> None:
    """A gradient that is finite and is not that of the loss is found by a difference of losses."""
    subject = subject_of("llava")

    assert "28 parameters have one; along " in str(steps.check_gradients(subject))

    with_forward(subject, damage, eager="a kernel is compiled for nothing")

    with pytest.raises(CheckError, match=told):
        steps.check_gradients(subject)
