"""Runs towers of the Qwen-VL lineage on images of different sizes as one batch.

mlx-vlm's towers read the image sizes from a grid on the host, so that a trace holds for these images in this order
only, and they compute attention image by image (qwen2_vl/vision.py, qwen2_5_vl/vision.py, qwen3_vl/vision.py:125). Here
images lie in bins (`models/backbone/patch_bins.py`), sizes enter as arrays, and attention runs over all bins at once.
The tower's own layers run; parts that depend on sizes are replaced, in this instance and only while it runs.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.base import ensure_fused_sdpa

from ...ops import cpu_exp
from ...ops.cpu_exp import gelu
from ...ops.functional import attend, rotate
from ..forward.overrides import override_attributes, override_call
from .patch_bins import Grid, Pass, coordinates, corners, lay_out, lay_out_segments, windows
from .pixels import Pixels

TANH = ("tanh", "precise")
"""MLX's names of GELU's tanh approximation."""

Inputs = dict[str, mx.array]


@attrs.frozen
class TowerShape:
    """The shape of a tower's trace.

    Attributes:
        n_bins: Bins of a pass.
        length: Patches of a bin.
        is_full: No mask is needed within a bin.
        window: Patches of a window if all windows are equal and fill the bins; None otherwise.
    """

    n_bins: int
    length: int
    is_full: bool
    window: int | None = None


def merge_size(tower: nn.Module) -> int:
    """Return the number of patches per token along each side."""
    return int(tower.spatial_merge_size)


def lay_out_sizes(tower: nn.Module, found: Pass, grids: Sequence[Grid]) -> tuple[TowerShape, Inputs]:
    """Make the tower's inputs of a pass except pixels; safe to call from any thread.

    Args:
        tower: The tower.
        found: The pass.
        grids: Of its members.

    Returns:
        The trace's shape, and its arrays: `coordinates` i32[2, N]; where they are needed `segments` i32[n_bins,
        length], `corners` i32[4, N] and `shares` f32[4, N], `order` i32[tokens] and `windows` i32[n_bins, length].
    """
    merge = merge_size(tower)
    host: dict[str, Any] = {"coordinates": lay_out(found, [coordinates(grid, merge) for grid in grids])}
    if not found.is_full:
        host["segments"] = lay_out_segments(found, grids)
    if hasattr(tower, "pos_embed"):
        both = [corners(grid, merge, int(tower.num_grid_per_side)) for grid in grids]
        host["corners"] = lay_out(found, [entries for entries, _ in both])
        host["shares"] = lay_out(found, [shares for _, shares in both])
    window = None
    if hasattr(tower, "get_window_index"):
        window = _lay_out_windows(host, found, grids, merge, tower.window_size // merge // tower.patch_size)
    inputs = {name: mx.array(value) for name, value in host.items()}
    return TowerShape(found.n_bins, found.length, found.is_full, window), inputs


def lay_out_pixels(found: Pass, pixels: Sequence[Pixels] | Sequence[mx.array]) -> mx.array:
    """Put the patches of images at their places in a pass.

    Args:
        found: The pass.
        pixels: Patches of its members, [patches, C], packed in one way, all on the host or all on the device.

    Returns:
        [N, C], still packed.
    """
    on_device = [part for part in pixels if isinstance(part, mx.array)]
    if on_device:
        return place(found, on_device, 1)
    on_host = [part for part in pixels if isinstance(part, np.ndarray)]
    placed = np.zeros((found.n_patches, on_host[0].shape[-1]), dtype=on_host[0].dtype)
    for start, part in zip(found.starts, on_host, strict=True):
        placed[start : start + len(part)] = part
    return mx.array(placed)


def _lay_out_windows(host: dict[str, Any], found: Pass, grids: Sequence[Grid], merge: int, side: int) -> int | None:
    """Add the tokens' order by windows, and the windows; return the patches of one if equal windows fill the bins."""
    unit = merge**2
    order = np.arange(found.n_patches // unit, dtype=np.int32)
    numbers = np.zeros(found.n_patches // unit, dtype=np.int32)
    last = 0
    for start, grid in zip(found.starts, grids, strict=True):
        own, window = windows(grid, merge, side)
        span = slice(start // unit, start // unit + len(own))
        order[span] = start // unit + own
        numbers[span] = last + 1 + window
        last += 1 + int(window[-1])
    host["order"] = order
    _, counts = np.unique(numbers[numbers > 0], return_counts=True)
    length = int(counts[0]) * unit
    if found.is_full and len(set(counts.tolist())) == 1 and found.length % length == 0:
        return length
    host["windows"] = np.repeat(numbers, unit).reshape(found.n_bins, found.length)
    return None


def place(found: Pass, parts: Sequence[mx.array], unit: int) -> mx.array:
    """Put rows of images at the places of their patches, with zeros in between.

    Args:
        found: The pass.
        parts: Rows of its members, [patches / unit, D].
        unit: Patches of a row.

    Returns:
        [n_patches / unit, D].
    """
    n_rows, width = found.n_patches // unit, parts[0].shape[-1]
    pieces: list[mx.array] = []
    end = 0
    for start, part in zip(found.starts, parts, strict=True):
        if start // unit > end:
            pieces.append(mx.zeros((start // unit - end, width), dtype=part.dtype))
        pieces.append(part)
        end = start // unit + part.shape[0]
    if n_rows > end:
        pieces.append(mx.zeros((n_rows - end, width), dtype=pieces[0].dtype))
    return mx.concatenate(pieces)


def run_tower(tower: nn.Module, shape: TowerShape, inputs: Mapping[str, mx.array]) -> list[mx.array]:
    """Run a tower on a pass, within `in_bins`; safe to trace and to differentiate.

    Args:
        tower: The tower.
        shape: As returned by `lay_out_sizes`, as are the arrays.
        inputs: See above.

    Returns:
        f[N / unit, D]: the features, then those of the deepstack, one for each of its layers.
    """
    # The tower gets the bins as its frames.
    merge = merge_size(tower)
    grid = mx.array([[shape.n_bins, merge, shape.length // merge]])
    output = tower(inputs["pixels"], grid)
    if not isinstance(output, tuple):
        return [output]
    features, deepstack = output
    return [features, *(deepstack or ())]


@contextmanager
def in_bins(tower: nn.Module, shape: TowerShape, inputs: Mapping[str, mx.array]) -> Iterator[None]:
    """Let a tower run on a pass with these inputs while the `with` lasts.

    It has to enclose the backward pass, too, in which checkpointed layers run their forward again.
    """
    with ExitStack() as stack:
        attending = _Attending(shape, inputs)
        for part in tower.modules():
            if {"qkv", "proj"} <= part.children().keys() and hasattr(part, "num_heads"):
                stack.enter_context(override_call(part, functools.partial(attending.run, part)))
            elif type(part) is nn.GELU and part._approx in (*TANH, "none"):  # noqa: SLF001
                # mlx-vlm computes GELU's cube as a power.
                stack.enter_context(override_call(part, functools.partial(gelu, is_tanh=part._approx in TANH)))  # noqa: SLF001
            elif _parts_images(part):
                stack.enter_context(override_call(part, _patches(part)))
        replaced: dict[str, Callable[..., Any]] = {
            "rot_pos_emb": lambda _: _angles(tower.rotary_pos_emb, inputs["coordinates"])
        }
        if "corners" in inputs:
            replaced["fast_pos_embed_interpolate"] = lambda _: _between_corners(tower.pos_embed, inputs)
        if "order" in inputs:
            # The number of lengths tells attention within windows from attention within bins.
            replaced["get_window_index"] = lambda _: (inputs["order"], mx.arange(shape.n_bins + 2))
        stack.enter_context(override_attributes(tower, **replaced))
        yield


class _Attending:
    """Attention within bins, or within windows."""

    def __init__(self, shape: TowerShape, inputs: Mapping[str, mx.array]) -> None:
        self._shape = shape
        self._inputs = inputs

    def run(self, attention: nn.Module, x: mx.array, cu_seqlens: mx.array, rotary_pos_emb: mx.array) -> mx.array:
        """Attend: f[N, C] to f[N, C].

        Args:
            attention: The tower's module.
            x: Hidden states of all bins.
            cu_seqlens: Only its length is used.
            rotary_pos_emb: f[N, D / 2], angles.
        """
        length, segments = self._shape.length, self._inputs.get("segments")
        if cu_seqlens.size == self._shape.n_bins + 2:
            length = self._shape.window or length
            segments = self._inputs.get("windows")
        qkv = attention.qkv(x).reshape(-1, length, 3, attention.num_heads, x.shape[-1] // attention.num_heads)
        angles = rotary_pos_emb.reshape(-1, length, 1, 1, rotary_pos_emb.shape[-1])
        sines = mx.concatenate([-mx.sin(angles), mx.sin(angles)], axis=-2)
        cosines = mx.broadcast_to(mx.cos(angles), sines.shape)
        parts = rotate_part(qkv[:, :, 0], cosines, sines), rotate_part(qkv[:, :, 1], cosines, sines), qkv[:, :, 2]
        # Without a kernel nothing is padded to its width.
        is_plain = cpu_exp.has_slow_exponentials() and x.dtype == mx.float32
        attending: Callable[..., mx.array] = attend if is_plain else ensure_fused_sdpa
        mask = None if segments is None else _mask(segments, None if is_plain else x.dtype)
        mixed = attending(*(part.transpose(0, 2, 1, 3) for part in parts), attention.scale, mask)
        projected: mx.array = attention.proj(mixed.transpose(0, 2, 1, 3).reshape(x.shape))
        return projected


def _mask(segments: mx.array, dtype: mx.Dtype | None) -> mx.array:
    """Make the mask of segments: i32[n, L] to [n, 1, L, L], bool, or an additive mask for a kernel.

    MLX's CUDA attention copies a boolean mask for every head.
    """
    is_same = segments[:, None, :, None] == segments[:, None, None, :]
    if dtype is None:
        return is_same
    return mx.where(is_same, 0, mx.finfo(dtype).min).astype(dtype)


def rotate_part(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    """Apply a rotary embedding to the first part of every head, f[B, T, H, D], or to all of it."""
    width = 2 * cosines.shape[-1]
    if width == x.shape[-1]:
        return rotate(x, cosines, sines)
    return mx.concatenate([rotate(x[..., :width], cosines, sines), x[..., width:]], axis=-1)


def _angles(rotary: nn.Module, places: mx.array) -> mx.array:
    """Compute the angles of every patch, for its row and then its column: i32[2, N] to f32[N, D / 2]."""
    frequencies = mx.power(rotary.theta, -mx.arange(0, rotary.dim, 2, dtype=mx.float32) / rotary.dim)
    return (places.T[..., None].astype(mx.float32) * frequencies).reshape(places.shape[1], -1)


def _between_corners(table: nn.Module, inputs: Mapping[str, mx.array]) -> mx.array:
    """Interpolate the learned position of every patch from the table: f[N, C]."""
    entries = table(inputs["corners"])
    shares = inputs["shares"].astype(entries.dtype)[..., None]
    first, second, third, fourth = (mx.multiply(entries[corner], shares[corner]) for corner in range(4))
    return first + second + third + fourth


def _parts_images(part: nn.Module) -> bool:
    """Whether a part embeds patches by a convolution whose stride equals its kernel."""
    projection = part.get("proj")
    sizes = [getattr(part, name, None) for name in ("temporal_patch_size", "patch_size", "patch_size", "in_channels")]
    return type(projection) is nn.Conv3d and list(projection.weight.shape[1:]) == sizes


def _patches(part: nn.Module) -> Callable[[mx.array], mx.array]:
    """Multiply patches by the convolution's weights, transposed into the order of a patch's elements.

    The model transposes the patches, which are larger, instead (qwen3_vl/vision.py:88), and on CUDA each number of
    patches needs another setup of the convolution.
    """

    def run(patches: mx.array) -> mx.array:
        weight = part.proj.weight.transpose(0, 4, 1, 2, 3).reshape(part.proj.weight.shape[0], -1)
        product: mx.array = patches.reshape(-1, weight.shape[1]) @ weight.T
        return mx.add(product, part.proj.bias) if "bias" in part.proj else product

    return run
