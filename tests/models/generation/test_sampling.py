"""The next token of each row."""

import mlx.core as mx
import numpy as np

from vlora.models.generation.sampling import Sampler


def test_the_likeliest_that_is_not_banned() -> None:
    """Tokens that stand for images are never chosen; an id beyond the head is no matter."""
    logits = mx.array([[0.0, 3.0, 2.0], [1.0, 0.0, 5.0]])

    assert Sampler(names=["a", "b"])(logits, 0).tolist() == [1, 2]
    assert Sampler(names=["a", "b"], banned=(1, 2, 99, -1))(logits, 0).tolist() == [0, 0]


def test_draws_depend_on_the_row_alone() -> None:
    """Company, order and earlier draws change nothing; other tokens of an answer are drawn anew."""
    logits = mx.zeros((1, 50))
    alone = [int(Sampler(names=["row 1"], temperature=1.0)(logits, number)[0]) for number in range(8)]
    beside = [
        Sampler(names=["row 0", "row 1"], temperature=1.0)(mx.zeros((2, 50)), number)[1]
        for number in reversed(range(8))
    ]

    assert alone == beside[::-1]
    assert len(set(alone)) > 3


def test_draws_follow_the_probabilities() -> None:
    """At a temperature, shares are those of the scores divided by it."""
    logits = mx.broadcast_to(mx.log(mx.array([0.5, 0.3, 0.2])), (2000, 3))
    names = [f"row {row}" for row in range(2000)]
    plain = np.bincount(Sampler(names=names, temperature=1.0)(logits, 0), minlength=3) / 2000
    cold = np.bincount(Sampler(names=names, temperature=0.5)(logits, 0), minlength=3) / 2000

    assert np.abs(plain - [0.5, 0.3, 0.2]).max() < 0.04
    assert np.abs(cold - np.array([25, 9, 4]) / 38).max() < 0.04
