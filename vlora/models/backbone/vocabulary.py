"""Refuses tokens beyond a model's tables, which a tokenizer may have. Pure."""

from collections.abc import Callable

import attrs
import mlx.nn as nn

from ...adapters.layers import Adapter
from ...errors import SampleError
from ...types import Example
from .head import Head, find_module

TABLE = "embed_tokens"
"""Usual name of the table of token embeddings; tables of other names are not checked."""


@attrs.frozen
class Vocabulary:
    """How many tokens a model has.

    Attributes:
        n_read: Rows of its embedding table; None if there is not exactly one table.
        n_written: Outputs of its head; None where the head is not one layer.
    """

    n_read: int | None
    n_written: int | None

    def check(self, example: Example, spell: Callable[[int], str]) -> None:
        """Refuse tokens beyond a table: MLX would read, and in the gradient write, memory outside of it.

        Args:
            example: A row. Image placeholders are not checked: they are replaced, and may have ids that no table has.
            spell: Names a token.

        Raises:
            SampleError: The row has a token that the model cannot read, or learns one that it cannot write.
        """
        read = example.tokens[~example.placeholders]
        learned = example.tokens[example.supervised]
        for ids, n_rows, where in ((read, self.n_read, "embedding table"), (learned, self.n_written, "head")):
            token = int(ids.max(initial=0))
            if n_rows is not None and token >= n_rows:
                msg = (
                    f"{example.source}: token {token} ({spell(token)}) is beyond the model's {where}, which has "
                    f"{n_rows:,} rows; take the tokenizer that belongs to the model, or leave the token out of the row"
                )
                raise SampleError(msg)


def count_vocabulary(module: nn.Module, is_language: Callable[[str], bool], head: Head | None) -> Vocabulary:
    """Count the tokens that a model can read, and those that it can write.

    Args:
        module: The model.
        is_language: Whether a module's name is one of the language model's.
        head: The head, if it was found.
    """
    tables = [part for name, part in module.named_modules() if name.rpartition(".")[2] == TABLE and is_language(name)]
    n_read = _count_rows(tables[0]) if len(tables) == 1 else None
    return Vocabulary(n_read, None if head is None else _count_rows(find_module(module, head.name)))


def _count_rows(module: nn.Module) -> int | None:
    own = module.linear if isinstance(module, Adapter) else module
    is_one = isinstance(own, (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding))
    return int(own.weight.shape[0]) if is_one else None
