"""Pixels of images as they wait for a tower: in the type that it takes them in, every picture once.

Processors of the Qwen-VL lineage write float32, and a still image twice, as two frames (`temporal_patch_size`). A tower
in bfloat16 needs a quarter of that. It is found in NumPy, whose loops leave the interpreter to other threads; MLX would
take device memory for it, while the thread of the training step waits for the device's lock. Pure.
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
"""What numbers of a type are on the host; those of bfloat16, which NumPy does not have, are their bits."""


@attrs.frozen
class PixelLayout:
    """How a tower takes the numbers of a patch: by channel, by frame, by place.

    Attributes:
        dtype: Of the tower's weights.
        n_channels: Colours.
        n_frames: Pictures of a patch.
        n_places: Pixels of a patch in one picture.
    """

    dtype: mx.Dtype
    n_channels: int
    n_frames: int
    n_places: int

    @property
    def width(self) -> int:
        """Numbers of a patch."""
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
        """Pack the patches of several images, and write all pictures out if those of one image are not the same.

        Where some are on the device, all go there, unpacked.
        """
        if any(isinstance(part, mx.array) for part in parts):
            return [self.unpack(mx.array(part)) for part in parts]
        packed = [self.pack(part) for part in parts if isinstance(part, np.ndarray)]
        if len({part.shape[-1] for part in packed}) == 1:
            return packed
        return [self._write_out(part) if part.shape[-1] != self.width else part for part in packed]

    def unpack(self, packed: mx.array) -> mx.array:
        """Give the tower what was packed: f[n, width] of `dtype`."""
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
    """Say how a tower of the Qwen-VL lineage takes pixels."""
    part = tower.patch_embed
    weight = part.proj.weight
    return PixelLayout(weight.dtype, part.in_channels, part.temporal_patch_size, part.patch_size**2)


def to_host_type(values: npt.NDArray[np.float32], dtype: mx.Dtype) -> Pixels:
    """Give float32 numbers in the host's type for another one, rounded to the nearest, and to even between two."""
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
