"""Tokens beyond the rows of a table or of a head are refused."""

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from tests.training import make_trainable
from vlora.errors import SampleError
from vlora.models.backbone.vocabulary import count_vocabulary


def test_tokens_that_the_head_does_not_have(checkpoint: Callable[[str], Path]) -> None:
    """Where the head is shorter than the table they may be read, but not learned; images' own ids are in neither."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    backbone, row = subject.backbone, subject.examples[0]
    whole = count_vocabulary(backbone.module, backbone.is_language, backbone.head)
    assert whole.n_read == whole.n_written
    whole.check(row, str)
    assert whole.n_read is not None
    short = attrs.evolve(whole, n_written=int(row.tokens[row.supervised].max()))
    with pytest.raises(SampleError, match=f"token {short.n_written} .spelled. is beyond the model's head"):
        short.check(row, lambda _: "spelled")
    unlearned = attrs.evolve(row, supervised=np.zeros_like(row.supervised))
    short.check(unlearned, str)
    beyond = np.where(row.placeholders, whole.n_read, row.tokens).astype(np.int32)
    whole.check(attrs.evolve(unlearned, tokens=beyond), str)
