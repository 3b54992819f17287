"""A head that is the transposed embedding."""

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn


class TiedHead(nn.Module):  # type: ignore[misc]
    """A head without weights of its own: it is the embedding, transposed."""

    def __init__(self, owner: nn.Module, table: str) -> None:
        """Point to an embedding.

        Args:
            owner: The module that has it.
            table: Its name there; it may be replaced by a quantized one.
        """
        super().__init__()
        # Not as a submodule: the embedding has one name.
        object.__setattr__(self, "_owner", owner)
        object.__setattr__(self, "_table", table)

    @property
    def table(self) -> nn.Module:
        """The embedding."""
        return getattr(self._owner, self._table)

    def __call__(self, hidden: mx.array) -> mx.array:
        """Compute logits: f[..., D] to f[..., V]."""
        logits: mx.array = getattr(self._owner, self._table).as_linear(hidden)
        return logits


def tied_heads(module: nn.Module) -> Mapping[str, str]:
    """Return the heads of a model that are embeddings: name of the head to that of the embedding."""
    modules = dict(module.named_modules())
    names = {id(layer): name for name, layer in modules.items()}
    return {name: names[id(head.table)] for name, head in modules.items() if isinstance(head, TiedHead)}
