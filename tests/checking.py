"""What the tests of the doctor's checks share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
from mlx import nn

from tests.prove import make_subject
from vlora.doctor.checks import Outcome, find_checks, run_checks
from vlora.doctor.model.subject import Subject
from vlora.models.forward.lm_inputs import LMInputs


def outcome_of(name: str, folder: Path) -> Outcome:
    """Run one check."""
    folder.mkdir(exist_ok=True)
    (outcome,) = run_checks(folder, {name: find_checks()[name]})
    return outcome


def scaled(function: Any) -> Any:
    """Let a function give a twentieth too much."""
    return lambda *args, **kwargs: function(*args, **kwargs) * 1.05


def subject_of(family: str) -> Subject:
    """Make a family's tiny model a subject of the checks of models."""
    made = make_subject(family)
    params = dict(made.state.params)
    return Subject(backbone=made.backbone, config=made.config, examples=list(made.examples), params=params)


def with_forward(
    subject: Subject, change: Callable[[mx.array, LMInputs], mx.array], *, unread: str = "", **others: Any
) -> None:
    """Let a subject's model have another forward; its head runs at all tokens then.

    Args:
        subject: Whose model it is.
        change: Makes other logits: (its own logits f[B, T, V], inputs) to f[B, T, V].
        unread: An input that is not read.
        others: What else its family's forward is said to do.
    """
    family = subject.backbone.family
    own = family.forward.forward

    def forward(module: nn.Module, tokens: mx.array, inputs: LMInputs) -> mx.array:
        return change(own(module, tokens, {name: x for name, x in inputs.items() if name != unread}), inputs)

    subject.backbone.family = attrs.evolve(family, forward=attrs.evolve(family.forward, forward=forward, **others))
    subject.backbone.head = None


def unchanged(logits: mx.array, _: LMInputs) -> mx.array:
    """Leave logits as they are."""
    return logits
