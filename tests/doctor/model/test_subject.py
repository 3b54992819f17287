"""What checks of models compute with."""

import mlx.core as mx
import numpy as np
import pytest

from tests.checking import subject_of
from vlora.data.collate import collate
from vlora.doctor.model.subject import PLACES, bounded, changed, probed, share_of
from vlora.errors import CheckError
from vlora.types import Example


def example(n_tokens: int) -> Example:
    """Make a row whose first two tokens stand for an image."""
    tokens = np.arange(10, 10 + n_tokens, dtype=np.int32)
    places = np.arange(n_tokens)
    inputs = {"pixel_values": np.arange(6, dtype=np.float32).reshape(1, 6), "grid": np.ones((1, 3))}
    return Example("a row", tokens, places > n_tokens // 2, places < 2, inputs)


def test_the_logits_of_a_row_are_those_at_a_few_of_its_tokens() -> None:
    """The first and the last that are read are among them, and none comes twice."""
    assert probed(example(200)).tolist()[:: PLACES - 1] == [0, 198]
    assert len(probed(example(200))) == PLACES
    assert probed(example(3)).tolist() == [0, 1]
    assert probed(example(1)).tolist() == [0]


def test_another_row_has_the_same_shapes() -> None:
    """Its words stand backwards, the tokens of images and the last one as before; its pixels are others."""
    before = example(8)
    other = changed(before)

    assert other.tokens.tolist() == [10, 11, 16, 15, 14, 13, 12, 17]
    assert before.tokens.tolist() == list(range(10, 18))
    assert other.inputs["pixel_values"].tolist() == [[5.5, 4.5, 3.5, 2.5, 1.5, 0.5]]
    assert other.inputs["pixel_values"].dtype == np.float32
    assert other.inputs["grid"] is before.inputs["grid"]


def test_a_difference_is_a_share_of_the_spread() -> None:
    """What is not a number is never small."""
    expected = np.array([0.0, 2.0], dtype=np.float32)

    assert share_of(expected + 1, expected) == pytest.approx(1.0)
    assert bounded(0.1, 0.1, "{found}") == 0.1
    with pytest.raises(CheckError, match=r"row 3 change by 2\.0e-01 of their spread \(1e-01 is rounding\)"):
        bounded(0.2, 0.1, "row 3 {found}")
    with pytest.raises(CheckError, match="row 3 are not finite"):
        bounded(share_of(expected * float("nan"), expected), 0.1, "row 3 {found}")


def test_a_batch_gives_the_logits_of_each_row() -> None:
    """In the order that is asked for, and as of each row alone; parameters count as they are bound."""
    subject = subject_of("llava")
    first, second = subject.row_logits(collate(subject.examples), [2, 0])

    np.testing.assert_allclose(first, subject.alone(subject.examples[2]), atol=1e-4)
    np.testing.assert_allclose(second, subject.alone(subject.examples[0]), atol=1e-4)

    subject.params = {name: mx.zeros_like(value) for name, value in subject.params.items()}

    assert np.abs(subject.alone(subject.examples[0]) - second).max() > 1e-3


def test_every_adapter_begins_with_something() -> None:
    """B is filled where it is zero, in the same way each time, and left alone where it is not."""
    subject = subject_of("llava")
    subject.begin()
    params = dict(subject.params)

    assert all(mx.any(value != 0).item() for value in params.values())

    subject.begin()

    assert all(mx.array_equal(value, params[name]).item() for name, value in subject.params.items())


def test_the_precision_is_that_of_the_weights() -> None:
    """A single array of fewer bits is enough to round."""
    subject = subject_of("llava")
    other = subject_of("llava")
    layer = other.backbone.module.language_model.model.layers[0].mlp.up_proj.linear
    layer.weight = layer.weight.astype(mx.bfloat16)

    assert subject.precision in ("float32", "tf32")
    assert other.precision == "rounded"
