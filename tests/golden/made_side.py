"""vlora's rows of all families that are exchanged with PEFT, and what transformers needs to make a checkpoint.

python -m tests.golden.made_side --work /tmp/golden FAMILY...
.venv-reference/bin/python -m tests.golden.made_reference --work /tmp/golden FAMILY...
"""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

from tests.families import FAMILIES, TinyFamily, examples
from tests.families.ocr import WITH_STRIDES
from vlora import Example
from vlora.models.forward.lm_inputs import PROMPT

from .made_cases import MADE, join
from .mlx_side import encode_rows
from .stages import make_parser

N_COLOURS = 3

TINY: Mapping[str, TinyFamily] = {**FAMILIES, **WITH_STRIDES}
"""The tiny models."""


def read_rows(family: str, model: Path) -> tuple[Example, ...]:
    """List a family's rows as vlora encodes them."""
    if family not in MADE:
        return encode_rows(family, model).examples
    rows = examples(TINY[family])
    chosen = tuple(rows[number] for number in MADE[family].reads)
    return tuple(count_positions(row) for row in chosen) if MADE[family].counts else chosen


def count_positions(row: Example) -> Example:
    """Let a row's positions count along all of their axes."""
    if "position_ids" not in row.inputs:
        return row
    places = row.inputs["position_ids"]
    counted = np.broadcast_to(np.arange(places.shape[-1], dtype=places.dtype), places.shape).copy()
    return attrs.evolve(row, inputs={**row.inputs, "position_ids": counted})


@contextmanager
def building(family: str) -> Iterator[None]:
    """Let a family's tiny model have sizes that no config.json says."""
    if family not in MADE:
        yield
        return
    with TINY[family].while_building():
        yield


def reference_inputs(row: Example) -> dict[str, Any]:
    """Give a row's inputs as transformers' model takes them.

    Where mlx-vlm takes a list of images of patches side by side (MiniCPM-V), transformers takes all in one line; the
    axes of positions (HunYuan) before the rows; patches (PaddleOCR-VL) without an axis of rows; grids of frames
    (Kimi K2.5), of which an image is one; patches of all images in a list (Nemotron-H Omni); those that are pooled
    (Molmo 2) counted through all images; and colours (GOT) before rows of pixels.
    """
    inputs = dict(row.inputs)
    if PROMPT in inputs:
        inputs["input_ids"] = inputs.pop(PROMPT)
    if "image_token_pooling" in inputs:
        inputs["image_token_pooling"] = count_patches(inputs)
    if isinstance(inputs.get("pixel_values"), np.ndarray):
        inputs["pixel_values"] = turn_pixels(inputs["pixel_values"], has_grids="image_grid_thw" in inputs)
    places = inputs.get("position_ids")
    if places is not None and places.ndim == 3:
        inputs["position_ids"] = np.swapaxes(places, 0, 1)
    if (grids := inputs.pop("image_grid_hws", None)) is not None:
        inputs["image_grid_thw"] = np.insert(grids, 0, 1, axis=1)
    if "imgs_sizes" in inputs:
        return list_patches(inputs["pixel_values"], inputs["num_tokens"])
    if (counts := inputs.pop("num_patches", None)) is not None:
        inputs["num_local_patches"] = np.array(counts)
    if (crops := inputs.pop("patch_pixel_values", None)) is not None:
        inputs["pixel_values_local"] = crops
    if (grids := inputs.pop("images_spatial_crop", None)) is not None:
        tiles, whole = inputs["pixel_values"]
        counts = count_tiles(tiles, grids)
        local = {"pixel_values_local": tiles, "num_local_patches": counts, "patches_grid": grids} if any(counts) else {}
        return {"pixel_values": whole, **local}
    return line_up(inputs) if isinstance(inputs.get("pixel_values"), list) else inputs


def line_up(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Put the patches of a row's images in one line."""
    (images,), (sizes,) = inputs["pixel_values"], inputs["tgt_sizes"]
    return {"pixel_values": np.concatenate(images, axis=-1)[None], "target_sizes": sizes}


def turn_pixels(pixels: np.ndarray[Any, Any], *, has_grids: bool) -> np.ndarray[Any, Any]:
    """Leave out the axis of rows of patches, and give colours the place before rows of pixels."""
    if pixels.ndim == 5 and has_grids:
        return pixels[0]
    return np.moveaxis(pixels, -1, 1) if pixels.ndim == 4 and pixels.shape[-1] == N_COLOURS else pixels


def list_patches(images: Sequence[np.ndarray[Any, Any]], n_features: Sequence[int]) -> dict[str, Any]:
    """Cut images, f[3, H, W] each, into the patches of which four make a feature, in one list."""
    patches, grids = [], []
    for image, count in zip(images, n_features, strict=True):
        side = math.isqrt(image[0].size // (4 * count))
        rows, columns = image.shape[1] // side, image.shape[2] // side
        cut = image.reshape(N_COLOURS, rows, side, columns, side).transpose(1, 3, 0, 2, 4)
        patches.append(cut.reshape(rows * columns, -1))
        grids.append((rows, columns))
    return {"pixel_values": np.concatenate(patches), "image_grid_hw": np.array(grids)}


def count_tiles(tiles: np.ndarray[Any, Any], grids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Count each image's tiles: of an image that is not cut, only DeepSeek-OCR-2 has one, and zeros stand for none."""
    cut = grids.prod(axis=1)
    return cut if tiles.any() and len(tiles) == cut.sum() else np.where(cut > 1, cut, 0)


def count_patches(inputs: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Count the patches that are pooled through all images of a row, where mlx-vlm counts those of each image."""
    n_features = np.asarray(inputs["image_grids"]).reshape(-1, 2, 2).prod(axis=2).sum(axis=1)
    n_patches = np.asarray(inputs["image_num_crops"]) * inputs["pixel_values"].shape[1]
    before = np.repeat(np.cumsum(n_patches) - n_patches, n_features)[:, None]
    pooled = np.asarray(inputs["image_token_pooling"])
    return np.where(pooled >= 0, pooled + before, pooled)


def write(family: str, folder: Path) -> None:
    """Write a family's configuration and rows for the other side."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(join(TINY[family].config, MADE[family].both)))
    arrays = {}
    for number, row in enumerate(read_rows(family, folder / "model")):
        arrays[f"{number}.tokens"] = mx.array(row.tokens)
        for name, value in reference_inputs(row).items():
            if hasattr(value, "shape"):
                arrays[f"{number}.inputs.{name}"] = mx.array(np.asarray(value))
    mx.save_safetensors(str(folder / "rows.safetensors"), arrays)


def main() -> None:
    """Write the named families, or all."""
    options = make_parser("made_side", __doc__, "where to write").parse_args()
    for family in options.families or MADE:
        write(family, options.work / family)


if __name__ == "__main__":
    main()
