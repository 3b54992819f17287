"""Metal kernels without gradients are not taken in training."""

import mlx.core as mx
import numpy as np
import pytest

from tests.prove import logits, make_subject
from vlora import collate


@pytest.mark.parametrize("family", ["inkling"])
def test_metal_kernels_without_gradients_are_not_taken_in_training(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that says it has Metal, the model asks for its kernels, which are not here; the step does not."""
    subject = make_subject(family)
    expected = logits(subject, subject.examples)
    batch = collate(subject.examples)
    differentiable, auxiliary = subject.backbone.embed(batch)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)

    with pytest.raises((RuntimeError, ValueError)):
        mx.eval(subject.backbone.all_logits(batch.tokens, differentiable, auxiliary))
    np.testing.assert_array_equal(logits(subject, subject.examples), expected)
    assert mx.metal.is_available()
