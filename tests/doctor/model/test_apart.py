"""Rows that see one another, padding, later tokens or no image are found."""

from collections.abc import Callable

import mlx.core as mx
import pytest

from tests.checking import subject_of, unchanged, with_forward
from vlora.doctor.model import apart
from vlora.doctor.model.subject import LeftOut, Subject
from vlora.errors import CheckError
from vlora.models.forward.lm_inputs import SEGMENTS, LMInputs

Check = Callable[[Subject], str | LeftOut]


def of_other_rows(logits: mx.array, _: LMInputs) -> mx.array:
    """A batch norm: every row has something of all."""
    return logits + 0.1 * logits.mean(axis=0, keepdims=True)


def of_padding(logits: mx.array, _: LMInputs) -> mx.array:
    """A mean over all places of a row, padding and later tokens among them."""
    return logits + 0.1 * logits.mean(axis=1, keepdims=True)


DAMAGES: dict[str, tuple[Check, Callable[[mx.array, LMInputs], mx.array], str]] = {
    "rows": (apart.check_rows, of_other_rows, "rows see one another"),
    "padding": (apart.check_padding, of_padding, "padding is seen"),
    "later tokens": (apart.check_causality, of_padding, "the model sees what it is to predict"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_not_apart_is_found(name: str) -> None:
    """A sound model passes; one whose forward leaks fails, with what it means and what to do."""
    check, damage, told = DAMAGES[name]
    subject = subject_of("llava")
    found = check(subject)

    assert isinstance(found, str)
    assert "off by" in found

    with_forward(subject, damage)

    with pytest.raises(CheckError, match=r"logits of row \d change by .* of their spread") as raised:
        check(subject)

    assert told in str(raised.value)


def test_logits_that_are_not_finite_are_told() -> None:
    """No comparison takes what is not a number for equal."""
    subject = subject_of("llava")
    with_forward(subject, lambda logits, _: logits + mx.array(float("nan")))

    with pytest.raises(CheckError, match="logits of row 0 are not finite"):
        apart.check_rows(subject)


def test_images_that_are_not_seen_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose tower gives the same features of all images fails."""
    subject = subject_of("llava")

    assert "another image changes logits" in str(apart.check_images(subject))

    own = type(subject.backbone.module.vision_tower).__call__

    def blind(tower: object, pixels: mx.array, **settings: object) -> object:
        return own(tower, mx.zeros_like(pixels), **settings)

    monkeypatch.setattr(type(subject.backbone.module.vision_tower), "__call__", blind)

    with pytest.raises(CheckError, match="does not see its images"):
        apart.check_images(subject)


def test_joined_rows_that_see_one_another_are_found() -> None:
    """A forward that is not told where rows begin fails; a family whose rows stay apart is left out, and says so."""
    subject = subject_of("llava")

    assert "3 rows joined to one of" in str(apart.check_joining(subject))

    with_forward(subject, unchanged, unread=SEGMENTS)

    with pytest.raises(CheckError, match="rows of its batch are joined: rows see one another"):
        apart.check_joining(subject)

    assert isinstance(apart.check_joining(subject_of("gemma3")), LeftOut)


def test_packed_rows_that_see_one_another_are_found() -> None:
    """A forward that is not told where rows begin fails; a family that does not pack is left out, and says so."""
    subject = subject_of("llava")

    assert "3 rows in one of" in str(apart.check_packing(subject))

    with_forward(subject, unchanged, unread=SEGMENTS)

    with pytest.raises(CheckError, match="packed"):
        apart.check_packing(subject)

    assert isinstance(apart.check_packing(subject_of("florence2")), LeftOut)
