"""Phi's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.rope_utils import SuScaledRoPE

from ..forward.calls import call_language_model
from ..forward.lm_inputs import LMInputs, PadSpec
from ..forward.overrides import override_attributes, override_call
from .expanding import WITHOUT_TOKEN, expand_features
from .family import Family, Format, Forward, Parts

PHI4_SIGLIP_IMAGE = -200
"""The id that stands for an image; a constant of mlx-vlm's (phi4_siglip/phi4_siglip.py:14), not in config.json."""


def embed_phi4_siglip(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Phi-4-reasoning-vision: each image goes through the tower without the padding behind its patches.

    mlx-vlm's tower gets no mask, so that patches attend to padding (phi4_siglip/vision.py:134).

    Raises:
        ValueError: The numbers of images and of their tokens differ.
    """
    features = []
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        shapes = np.array(inputs["spatial_shapes"])
        for image, (rows, columns) in enumerate(shapes.tolist()):
            one = slice(image, image + 1)
            states, _, _ = model.vision_tower(
                pixels[one, : rows * columns], output_hidden_states=True, spatial_shapes=mx.array(shapes[one])
            )
            features.append(model.mm_projector(states[model.config.mm_vision_select_layer][0]))
    return expand_features(model.language_model.model.embed_tokens, tokens, features, PHI4_SIGLIP_IMAGE)


def embed_phi4mm(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Phi-4-multimodal with images; mlx-vlm's own function does not return the new places of the text.

    Raises:
        ValueError: The numbers of images and of their tokens differ.
    """
    features: list[mx.array] = []
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        states = model.vision_tower(pixels, inputs.get("pixel_attention_mask"), inputs.get("spatial_shapes"))
        features = list(model.apply_mm_projector(states))
    return expand_features(model.language_model.model.embed_tokens, tokens, features, model.config.image_token_index)


def finish_phi3(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Mark rows that are longer than the range of the rotary embedding's short factors; bool[1, T]."""
    return {
        **fields,
        "is_long": mx.full(tokens.shape, tokens.shape[1] > module.config.original_max_position_embeddings),
    }


def forward_phi3(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Phi-3-vision under `rotated_by_own_length`."""
    module._rows_are_long[:] = [fields["is_long"][:, None, :, None]]  # noqa: SLF001
    return call_language_model(module, tokens, {name: value for name, value in fields.items() if name != "is_long"})


@contextmanager
def rotated_by_own_length(module: nn.Module) -> Iterator[None]:
    """Use the rotary embedding for the length of each example, and not for that of the longest row.

    The published model chooses between short and long factors by the batch's length (rope_utils.py:169). Recomputed
    layers run after `forward_phi3`, so its arguments are kept until the gradient is computed.
    """
    is_long: list[mx.array] = []

    def rotate(rope: nn.Module) -> AbstractContextManager[None]:
        def by_row(hidden: mx.array, offset: int = 0) -> mx.array:
            long, short = (
                mx.fast.rope(
                    mx.concatenate([scale.astype(hidden.dtype) * hidden[..., : rope.dim], hidden[..., rope.dim :]], -1),
                    rope.dim,
                    traditional=False,
                    base=None,
                    scale=1.0,
                    offset=offset,
                    freqs=freqs,
                )
                for scale, freqs in ((rope._long_scale, rope._long_freqs), (rope._short_scale, rope._short_freqs))  # noqa: SLF001
            )
            return mx.where(is_long[0], long, short)

        return override_call(rope, by_row)

    with ExitStack() as stack:
        stack.enter_context(override_attributes(module, _rows_are_long=is_long))
        for _, part in module.named_modules():
            if isinstance(part, SuScaledRoPE):
                stack.enter_context(rotate(part))
        yield


FAMILIES: Mapping[str, Family] = {
    "phi3_v": Family(
        parts=Parts(language_model="", beside_language=("model.vision_embed_tokens",)),
        forward=Forward(
            packs=True,
            own_inputs={"is_long": PadSpec(padding="edge")},
            finish_inputs=finish_phi3,
            forward=forward_phi3,
            train_overrides=rotated_by_own_length,
        ),
    ),
    # The type of patches is that of `patch_embedding.weight` (phi4_siglip/vision.py:104, phi4mm/vision.py:205).
    "phi4_siglip": Family(
        format=Format(**WITHOUT_TOKEN),
        parts=Parts(no_adapter=("patch_embedding",)),
        forward=Forward(embed=embed_phi4_siglip),
        upstream_differs="patches attend to the padding behind an image (phi4_siglip/vision.py:134)",
    ),
    "phi4mm": Family(
        format=Format(**WITHOUT_TOKEN),
        parts=Parts(no_adapter=("patch_embedding",)),
        forward=Forward(embed=embed_phi4mm),
    ),
}
