"""MiniMax's own correction."""

import mlx.core as mx
import numpy as np

from tests.families import FAMILIES, build
from vlora.models.families.minimax import blocks_by_head

N_TOKENS = 12  # three blocks of four tokens; a token attends to its own block and to one before it


def test_heads_of_the_index_choose_for_their_own_groups() -> None:
    """The first head scores the first block highest, the second the second: each group of heads attends to its own."""
    module = build(FAMILIES["minimax_m3_vl"])
    indexer = module.language_model.model.layers[1].self_attn.indexer
    queries, keys = np.zeros((1, 2, N_TOKENS, 16), np.float32), np.zeros((1, 1, N_TOKENS, 16), np.float32)
    queries[:, 0, :, 0] = queries[:, 1, :, 1] = 1
    keys[:, :, :4, 0], keys[:, :, 4:8, 1] = 1, 2
    positions = mx.arange(N_TOKENS)[None]
    before = type(indexer).select_blocks
    with blocks_by_head(module):
        blocks = indexer.select_blocks(mx.array(queries), mx.array(keys), 0, None, positions)
        mask = indexer.build_block_mask(blocks, None, N_TOKENS, mx.float32, positions)
    seen = [np.flatnonzero(head).tolist() for head in np.array(mask)[0, :, -1]]
    first, second, own = list(range(4)), list(range(4, 8)), list(range(8, 12))
    assert seen == [first + own, first + own, second + own, second + own]
    assert type(indexer).select_blocks is before
