"""The language model's tables of token embeddings."""

import mlx.nn as nn

from ...adapters.names import EMBEDDINGS
from ..backbone.backbone import MlxVlmBackbone


def find_tables(backbone: MlxVlmBackbone) -> list[str]:
    """Name the language model's tables of token embeddings."""
    return [
        name
        for name, module in backbone.module.named_modules()
        if name.rpartition(".")[2] in EMBEDDINGS
        and backbone.is_language(name)
        and isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))
    ]
