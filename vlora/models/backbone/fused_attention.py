"""Attention of layers that rotate heads, in one layout: the heads of a place stay adjacent but in attention itself.

mlx-vlm's layers transpose heads before they rotate them; each change of layout is an operation of its own forward and
backward, and a GPU waits for the host that starts them.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models.rope_utils import MRoPERotaryEmbedding

from ...adapters.names import PROJECTED
from ...ops.cuda_heads import place_heads
from ...ops.functional import move, rms_norm
from ...ops.quantized import linear_shape
from ..forward.overrides import ATTENTION
from ..forward.segments import Apart, attend_heads
from .patch_tower import rotate_part

NORMS = ("q_norm", "k_norm")

TAKEN = ("self", "x", "mask", "cache", "position_ids", "position_embeddings")
"""What the forward of such a part takes."""

SETTINGS = {"n_heads", "n_kv_heads", "head_dim", "scale"}


class Angles:
    """Cosines and sines of positions, computed once for all layers with the same positions.

    Attributes:
        dtype: Their type; None for that of the rotated array.
    """

    def __init__(self, rotary: MRoPERotaryEmbedding) -> None:
        self._rotary = rotary
        self.dtype: mx.Dtype | None = None
        self._positions: mx.array | None = None
        self._found: tuple[mx.array, mx.array] | None = None

    def __call__(self, x: mx.array, positions: mx.array) -> tuple[mx.array, mx.array]:
        """Find f[B, T, 1, 2, D / 2] for i32[3, B, T], as `vlora.ops.functional.rotate` takes them."""
        if self._found is None or positions is not self._positions:
            typed = x if self.dtype is None else mx.zeros((1,), dtype=self.dtype)
            both = [angles.reshape(*angles.shape[:2], 1, 2, -1) for angles in self._rotary(typed, positions)]
            signed = mx.concatenate([-both[1][..., :1, :], both[1][..., 1:, :]], axis=-2)
            self._positions, self._found = positions, (both[0], signed)
        return self._found

    def forget(self) -> None:
        """Drop the arrays of a finished trace."""
        self._positions = self._found = None


def has_rotated_heads(part: nn.Module) -> bool:
    """Whether a part has the layers of attention whose heads are rotated, and nothing that scales or gates them."""
    # MLX counts dicts of settings as children.
    layers = {name for name, child in part.children().items() if isinstance(child, (nn.Module, list))}
    norms = layers.intersection(NORMS)
    has_layers = layers - {"rotary_emb"} == {*PROJECTED, *norms} and len(norms) != 1
    if not has_layers or not isinstance(getattr(part, "rotary_emb", None), MRoPERotaryEmbedding):
        return False
    if not all(isinstance(part[name], (nn.Linear, nn.QuantizedLinear)) for name in PROJECTED):
        return False
    if not all(type(part[name]) is nn.RMSNorm for name in norms) or any(not hasattr(part, name) for name in SETTINGS):
        return False
    counts = (part.n_heads, part.n_kv_heads, part.n_kv_heads)
    widths = [linear_shape(part[name])[0] for name in PROJECTED[:3]]
    has_file = hasattr(sys.modules.get(type(part).__module__), ATTENTION)
    is_called_so = tuple(inspect.signature(type(part).__call__).parameters) == TAKEN
    return has_file and is_called_so and widths == [count * part.head_dim for count in counts]


def attending_rotated(part: nn.Module, angles: Angles) -> Callable[..., mx.array]:
    """Give a forward of the attention that `has_rotated_heads`, for rows that are read as a whole.

    Args:
        part: The model's.
        angles: Of its rotary embedding.
    """
    own, file = type(part).__call__, sys.modules[type(part).__module__]

    def run(
        x: mx.array, mask: Any = None, cache: Any = None, position_ids: Any = None, position_embeddings: Any = None
    ) -> mx.array:
        if cache is not None or position_ids is None or position_embeddings is not None:
            result: mx.array = own(part, x, mask, cache, position_ids, position_embeddings)
            return result
        # Rows once for all projections, which compute with nothing else.
        rows, shape = x.reshape(-1, x.shape[-1]), x.shape[:-1]
        queries, keys, values = part.q_proj(rows), part.k_proj(rows), part.v_proj(rows)
        found = angles(keys, position_ids)
        queries = _heads(part, "q_norm", queries, shape, found, mask)
        keys = _heads(part, "k_norm", keys, shape, found, mask)
        # The function that stands there now: others may have replaced it.
        mixed = attend_heads(getattr(file, ATTENTION), queries, keys, values, part.scale, mask)
        projected: mx.array = part.o_proj(mixed).reshape(*shape, -1)
        return projected

    return run


def _heads(
    part: nn.Module, name: str, x: mx.array, shape: tuple[int, ...], angles: tuple[mx.array, mx.array], mask: Any
) -> mx.array:
    """Rotate the heads of f[B T, H D], normalized where the part normalizes them: as `attend_heads` takes them."""
    norm = part.get(name)
    heads = (*shape, x.shape[-1] // part.head_dim, part.head_dim)
    # MLX has no other way to ask whether it is frozen.
    is_frozen = norm is not None and "weight" in norm._no_grad  # noqa: SLF001
    if is_frozen and isinstance(mask, Apart) and 2 * angles[0].shape[-1] == part.head_dim:
        return place_heads(x, (norm.weight, norm.eps), angles, mask.rows, mask.places)
    if norm is None:
        x = x.reshape(heads)
    elif is_frozen:
        x = rms_norm(x, norm.weight, norm.eps, heads)
    else:
        x = mx.fast.rms_norm(x.reshape(heads), norm.weight, norm.eps)
    rotated = rotate_part(x, *angles)
    return move(rotated, mask.rows, mask.places) if isinstance(mask, Apart) else rotated
