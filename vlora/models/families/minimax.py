"""MiniMax. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.corrections import undifferentiated_indices
from ..forward.metal_kernels import without_metal_kernels
from ..forward.overrides import chain
from .family import Family, Forward, Parts

INDEX = "token by token, its index keeps keys of its own (minimax_m3_vl/language.py:578)"
"""Why rows are read anew for each token of an answer."""


@contextmanager
def blocks_by_head(_: nn.Module) -> Iterator[None]:
    """Let each head of the index choose blocks for the attention heads of its own group.

    mlx-vlm takes the highest score over all heads of the index, and one choice for all groups
    (minimax_m3_vl/language.py:1680). The published model has as many heads in the index as there are heads of keys, and
    each chooses for itself.
    """
    from mlx_vlm.models.minimax_m3_vl.language import MiniMaxM3Indexer as Indexer

    select_all, mask_all = Indexer.select_blocks, Indexer.build_block_mask

    def select(self: Any, queries: mx.array, *rest: Any) -> mx.array:
        heads = range(queries.shape[1])
        return mx.stack([select_all(self, queries[:, head : head + 1], *rest) for head in heads], axis=1)

    def build(self: Any, blocks: mx.array, *rest: Any) -> mx.array:
        heads = range(blocks.shape[1])
        masks = mx.concatenate([mask_all(self, blocks[:, head], *rest) for head in heads], axis=1)
        return mx.repeat(masks, self.attention.num_attention_heads // len(heads), axis=1)

    with ExitStack() as stack:
        for name, value in (("select_blocks", select), ("build_block_mask", build)):
            stack.callback(setattr, Indexer, name, getattr(Indexer, name))
            setattr(Indexer, name, value)
        yield


FAMILIES: Mapping[str, Family] = {
    "minimax_m3_vl": Family(
        parts=Parts(selectors=("index_q_proj", "index_k_proj", "index_q_norm", "index_k_norm")),
        forward=Forward(
            train_overrides=chain(undifferentiated_indices, without_metal_kernels, blocks_by_head),
            rereads=INDEX,
        ),
        upstream_differs="all heads attend to the blocks that one of the index's chooses (language.py:1680)",
    ),
}
