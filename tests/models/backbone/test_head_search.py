"""The head is found by what a forward does, and believed by its logits."""

import mlx.core as mx
import pytest
from mlx import nn

from vlora.models.backbone.head import Head
from vlora.models.backbone.head_search import find_head

WIDTH, WORDS, TOKENS = 8, 11, 5


class Model(nn.Module):
    """A stack and a head; the head may be the embeddings' table, look at its neighbours, or run twice."""

    def __init__(self, kind: str) -> None:
        """Make the layers."""
        super().__init__()
        self.kind = kind
        self.embed_tokens = nn.Embedding(WORDS, WIDTH)
        self.stack = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
        if kind != "tied":
            self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)

    def __call__(self, ids: mx.array) -> mx.array:
        """Give logits: i32[B, T] to f[B, T, V]."""
        hidden = self.stack(self.embed_tokens(ids))
        if self.kind == "tied":
            return self.embed_tokens.as_linear(hidden)
        logits: mx.array = self.lm_head(hidden)
        if self.kind == "twice":
            logits = logits + self.lm_head(hidden)
        return mx.cumsum(logits, axis=1) if self.kind == "mixed" else 3 * mx.tanh(logits)


def search(kind: str, *, is_verified: bool = True) -> Head | None:
    """Find the head of a model."""
    model, ids = Model(kind), mx.random.randint(0, WORDS, (2, TOKENS), key=mx.random.key(1))
    return find_head(model, lambda: model(ids), TOKENS, is_verified=is_verified)


@pytest.mark.parametrize("is_verified", [True, False])
def test_a_head_and_its_stack_are_found(is_verified: bool) -> None:
    """Whatever the model does with its logits, and where it is the embeddings' table."""
    assert search("plain", is_verified=is_verified) == Head("lm_head", is_tied=False, stack="stack")
    assert search("tied", is_verified=is_verified) == Head("embed_tokens", is_tied=True, stack="stack")


@pytest.mark.parametrize("kind", ["mixed", "twice"])
def test_a_head_that_does_not_stand_alone_is_not_believed(kind: str) -> None:
    """One whose logits depend on the places beside them, or that is called more than once."""
    assert search(kind) is None
