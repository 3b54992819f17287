"""What a processor made of images, as pictures again.

Processors differ in how they lay pixels out and in what they subtract. The known ways are tried, and each is compared
with the image that the processor was given: what does not look like it is not shown as what the model receives.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.float32]
"""f32[H, W, 3]."""

NORMALIZATIONS = (
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
)
"""Means and deviations of processors that do not say theirs: of SigLIP, CLIP and ImageNet; none; whole numbers."""

GRIDS = ("image_grid_thw", "image_grid_hws", "spatial_shapes", "image_grid_hw")
"""Names of inputs that have the patches of each image: (frames,) rows and columns."""
MERGES = (1, 2, 3, 4)
"""Patches a side of which a processor puts together what becomes one token."""

COMPARED = 96
"""Pixels a side at most at which pictures are compared."""
SURE = 0.95
"""A correlation at which no further layout is tried, if the processor says how it puts patches together."""
NOTHING = 0.01
"""A difference of correlations that says nothing: of two layouts the first is right then."""
MOST_DIFFERENT = 0.12
"""Mean difference of two pictures of one image, of the whole range."""
LEAST_ALIKE = 0.8
"""Correlation of two such pictures, where there is anything in them."""
PLAIN = 0.03
"""Deviation of the pixels of a picture that has nothing in it."""


@attrs.frozen(kw_only=True)
class Received:
    """What the model receives of the images of a row.

    Attributes:
        pictures: Of each image its pictures: one, or its tiles. A single list for all where they cannot be told apart.
        is_processed: They are the processor's pixels; else the images as the processor was given them.
    """

    pictures: tuple[tuple[Image.Image, ...], ...]
    is_processed: bool


def restore_pictures(inputs: Mapping[str, Any], processor: Any, images: Sequence[Image.Image]) -> Received:
    """Turn a processor's pixels back into pictures. Pure.

    Args:
        inputs: The processor's outputs for the images.
        processor: It; asked for its mean and deviation only.
        images: What it was given.
    """
    given = Received(pictures=tuple((image,) for image in images), is_processed=False)
    pixels = inputs.get("pixel_values")
    if not images or pixels is None:
        return given
    best, shown = 0.0, given
    merges = _merges(processor)
    for groups in _layouts(inputs, pixels, len(images), merges):
        for mean, deviation in _normalizations(processor):
            restored = [[_denormalize(tile, mean, deviation) for tile in group] for group in groups]
            found, likeness = _find_images(restored, images)
            if likeness > best + NOTHING:
                pictures = tuple(tuple(map(_to_picture, group)) for group in found)
                best, shown = likeness, Received(pictures=pictures, is_processed=True)
            if likeness:
                break
        if best >= SURE and len(merges) > len(MERGES):
            # In the order that the processor says; other orders of large pictures take long to try.
            break
    return shown


def _merges(processor: Any) -> tuple[int, ...]:
    """Give the numbers of patches a side that may be put together, the processor's first if it says one."""
    said = getattr(getattr(processor, "image_processor", None), "merge_size", None)
    return (said, *MERGES) if isinstance(said, int) and said > 0 else MERGES


def _layouts(
    inputs: Mapping[str, Any], pixels: Any, n_images: int, merges: Sequence[int]
) -> Iterator[list[list[Pixels]]]:
    """Yield what the pixels may be: groups of tiles, each f32[H, W, 3], a group for each image or one for all."""
    arrays = pixels if isinstance(pixels, list) else [pixels]
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in "fiu" for array in arrays):
        return
    for grids in (_grids(inputs[name]) for name in GRIDS if name in inputs):
        yield from _from_patches([np.asarray(array, np.float32) for array in arrays], grids, n_images, merges)
    found = [_as_tiles(np.asarray(array, np.float32)) for array in arrays]
    groups = [_crop(tiles, inputs) for tiles in found if tiles is not None]
    if len(groups) == len(arrays):
        yield from _by_image(groups, n_images)
    if all(array.ndim in (2, 3) for array in arrays):
        # Patches of squares, as Molmo has them.
        lists = [np.asarray(array, np.float32).reshape(-1, *array.shape[-2:]) for array in arrays]
        squares = [[(int(patches.shape[0] ** 0.5),) * 2 for patches in listed] for listed in lists]
        flat = [patches for listed in lists for patches in listed]
        shapes = [shape for listed in squares for shape in listed]
        if all(rows * columns == len(patches) for (rows, columns), patches in zip(shapes, flat, strict=True)):
            yield from _from_patches([np.stack(flat)], shapes, n_images, merges)


def _by_image(groups: list[list[Pixels]], n_images: int) -> Iterator[list[list[Pixels]]]:
    """Divide tiles among images: as they stand, evenly, or not at all; tiles that are zero only fill an array."""
    tiles = [tile for group in groups for tile in group]
    if len(groups) == n_images:
        yield [_without_blank(group) for group in groups]
    elif len(tiles) % n_images == 0:
        each = len(tiles) // n_images
        yield [_without_blank(tiles[start : start + each]) for start in range(0, len(tiles), each)]
    if n_images > 1:
        yield [_without_blank(tiles)]


def _without_blank(tiles: list[Pixels]) -> list[Pixels]:
    return [tile for tile in tiles if tile.any()] or tiles


def _as_tiles(array: Pixels) -> list[Pixels] | None:
    """Give the pictures that an array of the shape [..., 3, H, W] or [..., H, W, 3] is."""
    if array.ndim < 3:  # noqa: PLR2004 - rows, columns and colours
        return None
    if array.shape[-1] != 3:  # noqa: PLR2004 - colours
        if array.shape[-3] != 3:  # noqa: PLR2004 - colours
            return None
        array = np.moveaxis(array, -3, -1)
    return list(array.reshape(-1, *array.shape[-3:]))


def _crop(tiles: list[Pixels], inputs: Mapping[str, Any]) -> list[Pixels]:
    """Leave out rows and columns that only fill an array: what a mask or sizes do not name."""
    mask, sizes = inputs.get("pixel_attention_mask"), inputs.get("image_sizes")
    if isinstance(mask, np.ndarray) and mask.ndim > 2 and mask.size == sum(tile[..., 0].size for tile in tiles):  # noqa: PLR2004
        masks = mask.reshape(-1, *mask.shape[-2:])
        tiles = [tile[: int(m.any(1).sum()), : int(m.any(0).sum())] for tile, m in zip(tiles, masks, strict=True)]
        return [tile for tile in tiles if tile.size]
    if isinstance(sizes, np.ndarray) and sizes.shape == (len(tiles), 2):
        return [tile[: int(height), : int(width)] for tile, (height, width) in zip(tiles, sizes, strict=True)]
    return tiles


def _grids(value: Any) -> list[tuple[int, int]]:
    """Read (rows, columns) of each image; frames follow one another as images do."""
    grids = [[int(number) for number in grid] for grid in np.asarray(value).reshape(-1, np.asarray(value).shape[-1])]
    return [(grid[-2], grid[-1]) for grid in grids for _ in range(grid[0] if len(grid) > 2 else 1)]  # noqa: PLR2004


def _from_patches(
    arrays: list[Pixels], grids: Sequence[tuple[int, int]], n_images: int, merges: Sequence[int]
) -> Iterator[list[list[Pixels]]]:
    """Put patches back in their places, in all orders that there are."""
    lists = _divide(arrays, grids)
    if lists is None:
        return
    shape = lists[0].shape[1:]
    n_values = int(np.prod(shape))
    sides = {int((n_values / depth) ** 0.5) for depth in (3, 6) if n_values % depth == 0}
    for side in sorted(side for side in sides if side and n_values % (side * side * 3) == 0):
        frames = n_values // (side * side * 3)
        for order, merge in itertools.product(("cfhw", "hwc", "fhwc"), merges):
            if any(rows % merge or columns % merge for rows, columns in grids):
                continue
            pictures = [
                _assemble(patches.reshape(len(patches), -1), grid, side, frames, order, merge)
                for patches, grid in zip(lists, grids, strict=True)
            ]
            yield from _by_image([pictures], n_images)


def _divide(arrays: list[Pixels], grids: Sequence[tuple[int, int]]) -> list[Pixels] | None:
    """Give the patches of each grid: arrays have them one after another, or one row of an array has them, padded."""
    counts = [rows * columns for rows, columns in grids]
    if len(arrays) == len(grids) and all(len(array) == n for array, n in zip(arrays, counts, strict=True)):
        return arrays
    whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if whole.ndim == 3 and len(whole) == len(grids) and whole.shape[1] >= max(counts):  # noqa: PLR2004 - f32[N, P, D]
        return [row[:n] for row, n in zip(whole, counts, strict=True)]
    if len(whole) != sum(counts):
        return None
    return list(np.split(whole, np.cumsum(counts)[:-1]))


def _assemble(patches: Pixels, grid: tuple[int, int], side: int, frames: int, order: str, merge: int) -> Pixels:
    """Put patches together, the first frame of each; `order` says how the values of a patch follow one another."""
    lengths = {"c": 3, "f": frames, "h": side, "w": side}
    if order == "hwc":
        patches = patches[:, : side * side * 3]
    values = patches.reshape(len(patches), *(lengths[axis] for axis in order))
    values = values if "f" not in order else np.asarray(np.take(values, 0, axis=1 + order.index("f")), np.float32)
    kept = order.replace("f", "")
    values = values.transpose(0, *(1 + kept.index(axis) for axis in "hwc"))
    rows, columns = grid
    placed = values.reshape(rows // merge, columns // merge, merge, merge, side, side, 3)
    return placed.transpose(0, 2, 4, 1, 3, 5, 6).reshape(rows * side, columns * side, 3)


def _normalizations(processor: Any) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """Yield means and deviations: first what the processor says."""
    for holder in (getattr(processor, "image_processor", None), processor):
        mean, deviation = getattr(holder, "image_mean", None), getattr(holder, "image_std", None)
        if isinstance(mean, (list, tuple)) and isinstance(deviation, (list, tuple)):
            yield mean, deviation
    yield from NORMALIZATIONS


def _denormalize(tile: Pixels, mean: Sequence[float], deviation: Sequence[float]) -> Pixels:
    found: Pixels = tile * np.asarray(deviation, np.float32) + np.asarray(mean, np.float32)
    return found


def _find_images(groups: list[list[Pixels]], images: Sequence[Image.Image]) -> tuple[list[list[Pixels]], float]:
    """Give groups in which each image is seen, and how well; tiles that are only parts of one are put together."""
    if len(groups) != len(images):
        return groups, min(_find_likeness(image, groups[0]) for image in images)
    found, likeness = [], 1.0
    for image, group in zip(images, groups, strict=True):
        seen = _find_likeness(image, group)
        whole = group
        if not seen:
            mosaics = [(_find_likeness(image, mosaic), mosaic) for mosaic in _mosaics(group)]
            seen, whole = max(mosaics, key=lambda each: each[0], default=(0.0, group))
        found.append(whole)
        likeness = min(likeness, seen)
    return found, likeness


def _mosaics(tiles: list[Pixels]) -> Iterator[list[Pixels]]:
    """Put tiles of one size side by side, in all grids that there are."""
    if len({tile.shape for tile in tiles}) != 1:
        return
    for rows in (n for n in range(1, len(tiles) + 1) if len(tiles) % n == 0):
        columns = len(tiles) // rows
        yield [np.concatenate([np.concatenate(tiles[r * columns : (r + 1) * columns], axis=1) for r in range(rows)])]


def _find_likeness(image: Image.Image, tiles: Sequence[Pixels]) -> float:
    """Say how well a tile shows all of an image: squeezed, or its middle, or with margins around or behind it."""
    if any(tile.shape[-1] != 3 or min(tile.shape[:2]) < 1 or tile.min() < -0.5 or tile.max() > 1.5 for tile in tiles):  # noqa: PLR2004
        return 0.0
    return max((_compare(part, view) for tile in tiles for part, view in _views(_to_picture(tile), image)), default=0.0)


def _views(tile: Image.Image, image: Image.Image) -> Iterator[tuple[Image.Image, Image.Image]]:
    yield tile, image
    aspect, own = image.width / image.height, tile.width / tile.height
    if abs(own / aspect - 1) < 0.02:  # noqa: PLR2004 - the same, but for whole pixels
        return
    yield tile, _middle(image, own)
    middle = _middle(tile, aspect)
    yield middle, image
    yield tile.crop((0, 0, *middle.size)), image


def _middle(image: Image.Image, aspect: float) -> Image.Image:
    """Cut the largest picture of an aspect out of the middle of another."""
    width, height = image.size
    wide, high = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
    left, top = (width - wide) // 2, (height - high) // 2
    return image.crop((left, top, left + wide, top + high))


def _compare(one: Image.Image, other: Image.Image) -> float:
    """Correlate two pictures; 0 if they do not show the same."""
    size = (min(COMPARED, one.width), min(COMPARED, one.height))
    first, second = (_read(image.resize(size, Image.Resampling.BOX)) for image in (one, other))
    if np.abs(first - second).mean() > MOST_DIFFERENT:
        return 0.0
    if min(first.std(), second.std()) < PLAIN:
        return 1.0
    found = float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
    return found if found >= LEAST_ALIKE else 0.0


def _read(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"), np.float32) / np.float32(255)


def _to_picture(tile: Pixels) -> Image.Image:
    return Image.fromarray((tile.clip(0, 1) * 255).round().astype(np.uint8))
