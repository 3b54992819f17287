"""GLM's families. Files and lines are those of mlx-vlm 0.7.10."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.corrections import sliced_splits, undifferentiated_indices
from ..forward.metal_kernels import without_metal_kernels
from ..forward.overrides import chain, override_call
from ..forward.resize import resize_bicubic
from .family import STATES, Family, Forward, Parts


def _add_positions(
    table: nn.Module, patches: mx.array, lengths: Sequence[int], grids: mx.array, rows: mx.array, columns: mx.array
) -> mx.array:
    """Add the learned positions of a square table to patches f[N, D], resized to each image's grid."""
    del lengths
    side = round(float(table.weight.shape[0]) ** 0.5)
    square = table.weight.reshape(side, side, -1)
    sizes = [(int(frames), int(height), int(width)) for frames, height, width in np.array(grids)]
    ends = np.cumsum([frames * height * width for frames, height, width in sizes]).tolist()
    positions = [
        resize_bicubic(square, (height, width))[rows[start:end], columns[start:end]]
        for (_, height, width), start, end in zip(sizes, [0, *ends], ends, strict=False)
    ]
    return patches + mx.concatenate(positions).astype(patches.dtype)


@contextmanager
def match_reference_glm_tower(model: nn.Module) -> Iterator[None]:
    """Correct the positions and the epsilon of the towers of GLM-4.1V and GLM-4.5V.

    mlx-vlm interpolates the learned positions linearly, as if there were nothing beyond the border
    (glm4v/vision.py:126, glm4v_moe/vision.py:126, models/kernels.py:493; on Metal a kernel without gradient), where
    the published model does so by cubic convolution with edges repeated, and its layers have a smaller epsilon
    (glm4v/vision.py:233, glm4v_moe/vision.py:232). Images are read one by one: of more than three, glm4v/vision.py:207
    lets all but the first two look at each other.
    """
    tower = model.vision_tower
    run = type(tower).__call__

    def read_images(pixels: mx.array, grids: mx.array, **options: Any) -> mx.array:
        ends = np.cumsum(np.prod(np.array(grids), axis=1)).tolist()
        return mx.concatenate(
            [
                run(tower, pixels[start:end], grids[image : image + 1], **options)
                for image, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
            ]
        )

    add_positions = functools.partial(_add_positions, tower.embeddings.position_embedding)
    norms = [norm for block in tower.blocks for norm in (block.norm1, block.norm2)]
    before = [norm.eps for norm in norms]
    try:
        for norm in norms:
            norm.eps = tower.config.rms_norm_eps
        with override_call(tower, read_images), override_call(tower.embeddings, add_positions):
            yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.eps = own


@contextmanager
def chosen_without_gradient(model: nn.Module) -> Iterator[None]:
    """Stop the gradient into the selection of earlier tokens.

    GLM-5's indexer returns the selected tokens as integers (glm5_next/language.py, Glm5NextIndexer), but computes them
    by arithmetic that MLX would differentiate.
    """

    def stopped(indexer: nn.Module) -> AbstractContextManager[None]:
        cls = type(indexer)
        return override_call(indexer, lambda *args, **kwargs: mx.stop_gradient(cls.__call__(indexer, *args, **kwargs)))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name.endswith(".indexer"):
                stack.enter_context(stopped(module))
        yield


FAMILIES: Mapping[str, Family] = {
    "glm4v": Family(
        is_proven=True,
        forward=Forward(packs=True, embed_overrides=match_reference_glm_tower, train_overrides=sliced_splits),
        upstream_differs=(
            "positions are interpolated linearly, and the tower's norms have another epsilon "
            "(glm4v/vision.py:126, :233)"
        ),
    ),
    "glm4v_moe": Family(
        forward=Forward(packs=True, embed_overrides=match_reference_glm_tower, train_overrides=sliced_splits),
        upstream_differs=(
            "positions are interpolated linearly, and the tower's norms have another epsilon "
            "(glm4v_moe/vision.py:126, :232)"
        ),
    ),
    "glm_ocr": Family(forward=Forward(packs=True)),
    "glm5_next": Family(
        parts=Parts(selectors=("indexer",)),
        forward=Forward(
            train_overrides=chain(undifferentiated_indices, chosen_without_gradient, without_metal_kernels),
            equal_prompts=STATES,
        ),
    ),
}
