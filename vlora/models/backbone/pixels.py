"""Packs pixels of images for a tower: in the tower's type, and every picture only once.

Processors of the Qwen-VL lineage write float32, and a still image twice, as two frames (`temporal_patch_size`). A tower
in bfloat16 needs a quarter of that. NumPy does the packing, since it releases the interpreter lock; MLX would use
device memory, and make the training step wait for the device's lock. Pure.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ...types import Example

Pixels = npt.NDArray[Any]

HOST_TYPES = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16}
"""Host types for MLX types; bfloat16, which NumPy does not have, is stored as its bits."""


@attrs.frozen
class PixelLayout:
    """The order of a patch's elements: by channel, by frame, by pixel.

    Attributes:
        dtype: Type of the tower's weights.
        n_channels: Number of colours.
        n_frames: Frames of a patch.
        n_places: Pixels of a patch in one frame.
    """

    dtype: mx.Dtype
    n_channels: int
    n_frames: int
    n_places: int

    @property
    def width(self) -> int:
        """Elements of a patch."""
        return self.n_channels * self.n_frames * self.n_places

    def pack(self, pixels: Pixels) -> Pixels:
        """Pack patches as a processor gives them; packed ones stay as they are.

        Args:
            pixels: f[n, width], or packed.

        Returns:
            [n, width], or [n, width / n_frames] where all pictures of every patch are the same, in the host's type for
            `dtype`: rounded to the nearest, as MLX rounds.
        """
        if pixels.dtype != np.float32 or pixels.shape[-1] != self.width or not pixels.size:
            return pixels
        pictures = pixels.reshape(-1, self.n_channels, self.n_frames, self.n_places)
        first = pictures[:, :, :1]
        is_still = bool((pictures[:, :, 1:] == first).all())
        return to_host_type((first if is_still else pictures).reshape(len(pixels), -1), self.dtype)

    def alike(self, parts: Sequence[Pixels | mx.array]) -> list[Pixels] | list[mx.array]:
        """Pack the patches of several images in one way: with all frames if those of one image differ.

        If some are on the device, all are put there, unpacked.
        """
        if any(isinstance(part, mx.array) for part in parts):
            return [self.unpack(mx.array(part)) for part in parts]
        packed = [self.pack(part) for part in parts if isinstance(part, np.ndarray)]
        if len({part.shape[-1] for part in packed}) == 1:
            return packed
        return [self._write_out(part) if part.shape[-1] != self.width else part for part in packed]

    def unpack(self, packed: mx.array) -> mx.array:
        """Unpack patches on the device: f[n, width] of `dtype`."""
        typed = packed.view(self.dtype) if packed.dtype == mx.uint16 else packed.astype(self.dtype)
        if typed.shape[-1] == self.width:
            return typed
        picture = typed.reshape(-1, self.n_channels, 1, self.n_places)
        pictures = mx.broadcast_to(picture, (typed.shape[0], self.n_channels, self.n_frames, self.n_places))
        return pictures.reshape(-1, self.width)

    def _write_out(self, packed: Pixels) -> Pixels:
        pictures = packed.reshape(-1, self.n_channels, 1, self.n_places)
        return np.repeat(pictures, self.n_frames, axis=2).reshape(len(packed), self.width)


def pixel_layout(tower: nn.Module) -> PixelLayout:
    """Return the pixel layout of a tower of the Qwen-VL lineage."""
    part = tower.patch_embed
    weight = part.proj.weight
    return PixelLayout(weight.dtype, part.in_channels, part.temporal_patch_size, part.patch_size**2)


def to_host_type(values: npt.NDArray[np.float32], dtype: mx.Dtype) -> Pixels:
    """Convert float32 to the host type for another type, rounding to nearest even."""
    if dtype != mx.bfloat16:
        return np.ascontiguousarray(values, dtype=HOST_TYPES[dtype])
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)


def pack_pixels(tower: nn.Module, example: Example) -> Example:
    """Pack an example's patches, if it has any; packed ones stay as they are."""
    pixels = example.inputs.get("pixel_values")
    if not isinstance(pixels, np.ndarray):
        return example
    return attrs.evolve(example, inputs={**example.inputs, "pixel_values": pixel_layout(tower).pack(pixels)})
