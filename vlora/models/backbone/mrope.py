"""M-RoPE positions of Qwen-VL models, computed on the host. Pure.

mlx-vlm computes them with device synchronizations per image and leaves them on the module, where a text-only
batch after an image batch finds stale ones. Here they are computed for each row.
"""

from collections.abc import Sequence

import numpy as np

from ...types import BoolArray, IntArray


def mrope_positions(is_image: BoolArray, grids: Sequence[tuple[int, int, int]], merge: int) -> IntArray:
    """Compute the temporal, vertical and horizontal position of every token.

    Text counts on in all three alike. An image's tokens have the position at which it starts plus their place in the
    merged grid; the text after it continues behind the largest position.

    Args:
        is_image: bool[T], marks image placeholders.
        grids: (frames, rows, columns) in patches of each image, in order.
        merge: Patches per token along each side.

    Returns:
        i32[3, T].

    Source:
        Qwen2-VL (arXiv 2409.12191), section 2.1.
    """
    positions = np.empty((3, len(is_image)), dtype=np.int32)
    token, position = 0, 0
    remaining = iter(grids)
    while token < len(is_image):
        if is_image[token]:
            frames, rows, columns = next(remaining)
            shape = (frames, rows // merge, columns // merge)
            n_tokens = shape[0] * shape[1] * shape[2]
            positions[:, token : token + n_tokens] = position + np.indices(shape).reshape(3, -1)
            position += max(shape)
        else:
            run = np.flatnonzero(is_image[token:])
            n_tokens = int(run[0]) if len(run) else len(is_image) - token
            positions[:, token : token + n_tokens] = position + np.arange(n_tokens)
            position += n_tokens
        token += n_tokens
    return positions
