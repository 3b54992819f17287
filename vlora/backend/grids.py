"""The tower of the Qwen-VL lineage: patches and a grid per image.

Images of one size go through the tower together, compiled with their grid fixed: only then can the tower be traced,
since the grid decides its shapes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..errors import BatchError
from ..steps import Params, bound
from ..types import Batch, Example, Tree
from .corrections import scatter_features
from .features import Entry, FeatureCache
from .fields import Fields, divide_fields, leaves
from .lean import lean_tower
from .positions import mrope_positions

TOWER_TRACES = 64
"""Compiled towers kept, one per image size and count; further ones run eagerly."""

Grid = tuple[int, int, int]
Image = tuple[Grid, Callable[[], Any]]
"""A grid in patches, and what gives the patches f[n, C], on the host or the device."""


@attrs.define(eq=False)
class GridTower:
    """The half of the model that turns images and tokens into the language model's inputs.

    Attributes:
        module: The mlx-vlm model.
        language_prefix: The language model's name within it.
        trained: Names of the trainable parameters that embedding uses.
        features: Keeps the features of images while the tower is frozen.
    """

    module: nn.Module
    language_prefix: str
    trained: frozenset[str]
    features: FeatureCache | None = None
    _traces: dict[tuple[Any, ...], Callable[..., Any]] = attrs.field(factory=dict, init=False)

    def embed(self, batch: Batch) -> Fields:
        """Make the language model's inputs of a batch.

        Raises:
            BatchError: A row's image tokens do not match its image features.
        """
        return self._merge(batch, *self._features(batch.rows))

    def _features(
        self, rows: Sequence[Example], *, counted: bool = True
    ) -> tuple[list[mx.array], list[list[mx.array]]]:
        """Run the tower over a batch's images, those of one size together, or find their features.

        Args:
            rows: The batch's.
            counted: The images enter the count of those found and computed.

        Returns:
            For each image in order: its features f[n, D], and the deepstack's, one per layer.
        """
        images = grid_images(rows)
        keys = [key for example in rows for key in example.image_keys]
        kept: dict[int, Entry] = {}
        cache = self.features if len(keys) == len(images) and not self._trains_tower else None
        if cache is not None:
            found = {index: cache.get(key, int(counted)) for index, key in enumerate(keys)}
            kept = {index: entry for index, entry in found.items() if entry is not None}
        missing = [index for index in range(len(images)) if index not in kept]
        computed = self._run_images(images, missing)
        for index, layers in computed.items():
            entry = {str(number): layer for number, layer in enumerate(layers)}
            kept[index] = entry
            if cache is not None:
                cache.put(keys[index], entry)
        ordered = [[kept[index][str(number)] for number in range(len(kept[index]))] for index in range(len(images))]
        return [layers[0] for layers in ordered], [layers[1:] for layers in ordered]

    def _run_images(self, images: Sequence[Image], wanted: Sequence[int]) -> dict[int, list[mx.array]]:
        """Run the tower over some of the images: number to features and the deepstack's."""
        merge = self._merge_size
        results: dict[int, list[mx.array]] = {}
        groups = group_by_grid([images[index] for index in wanted]).items()
        parts: list[tuple[Grid, Sequence[int]]] = list(groups)
        if len(wanted) < len(images):
            # Where the others' features are kept, how many are left is another number every time: few traces.
            parts = [(grid, part) for grid, members in groups for part in by_powers_of_two(members)]
        for grid, members in parts:
            numbers = [wanted[member] for member in members]
            pixels = join([images[number][1]() for number in numbers])
            outputs = self._tower(grid, len(members))({}, pixels.astype(self._tower_dtype))
            n_tokens = grid[0] * (grid[1] // merge) * (grid[2] // merge)
            for place, number in enumerate(numbers):
                span = slice(place * n_tokens, (place + 1) * n_tokens)
                results[number] = [output[span] for output in outputs]
        return results

    def _merge(self, batch: Batch, features: list[mx.array], deepstack: list[list[mx.array]]) -> dict[str, Any]:
        n_rows, length = batch.tokens.shape
        is_image = np.zeros((n_rows, length), dtype=np.bool_)
        positions = np.zeros((3, n_rows, length), dtype=np.int32)
        for example, (row, start, count) in zip(batch.rows, batch.spans, strict=True):
            own = example.tokens[:count] == self.module.config.image_token_id
            grids = [grid for grid, _ in grid_images([example])]
            expected = sum(grid[0] * grid[1] * grid[2] for grid in grids) // self._merge_size**2
            if int(own.sum()) != expected:
                msg = f"{example.source}: {int(own.sum())} image tokens stand for {expected} image features"
                raise BatchError(msg)
            is_image[row, start : start + count] = own
            positions[:, row, start : start + count] = mrope_positions(own, grids, self._merge_size)
        embeds = self.module.language_model.model.embed_tokens(batch.tokens)
        width = embeds.shape[-1]
        n_layers = self._n_deepstack
        fields: dict[str, Any] = {"position_ids": mx.array(positions)}
        if features:
            fields["inputs_embeds"] = scatter_features(embeds, mx.concatenate(features), is_image)
        else:
            fields["inputs_embeds"] = embeds
        if n_layers:
            # Also without images, so that text-only batches share the trace.
            blank = mx.zeros((n_rows, length, width), dtype=embeds.dtype)
            fields["deepstack_visual_embeds"] = [
                scatter_features(blank, mx.concatenate([image[layer] for image in deepstack]), is_image)
                if features
                else blank
                for layer in range(n_layers)
            ]
            fields["visual_pos_masks"] = mx.array(is_image)
        return fields

    def gradients(self, batch: Batch, trainable: Params, cotangents: Tree, *, is_recomputed: bool = False) -> Params:
        """The gradients behind `embed`: of the embedding table directly, of the tower size by size.

        `is_recomputed` tells apart what is traced while the tower's layers are checkpointed.
        """
        names = sorted(self.trained)
        tower_names = [name for name in names if not name.startswith(f"{self.language_prefix}.")]
        table_names = [name for name in names if name.startswith(f"{self.language_prefix}.")]
        features, deepstack = self._features(batch.rows, counted=False)
        n_images, n_layers = len(features), self._n_deepstack
        flat = [*features, *(layer for image in deepstack for layer in image)]

        def merge(table: list[mx.array], flat: list[mx.array]) -> list[mx.array]:
            layers = [
                flat[n_images + image * n_layers : n_images + (image + 1) * n_layers] for image in range(n_images)
            ]
            with bound(self.module, dict(zip(table_names, table, strict=True))):
                fields = self._merge(batch, flat[:n_images], layers)
            return leaves(divide_fields(fields)[0])

        n_table = len(table_names)
        _, pulled = mx.vjp(
            lambda *all_values: merge(list(all_values[:n_table]), list(all_values[n_table:])),
            [*(trainable[name] for name in table_names), *flat],
            leaves(cotangents),
        )
        gradients: Params = dict(zip(table_names, pulled[:n_table], strict=True))
        if not tower_names or not n_images:
            zeros = {name: mx.zeros_like(trainable[name]) for name in tower_names}
            return {**gradients, **zeros}
        tower_params = {name: trainable[name] for name in tower_names}
        images = grid_images(batch.rows)
        for grid, members in group_by_grid(images).items():
            pixels = join([images[index][1]() for index in members])
            towards = [mx.concatenate([pulled[n_table + index] for index in members])]
            for layer in range(n_layers):
                places = [n_table + n_images + index * n_layers + layer for index in members]
                towards.append(mx.concatenate([pulled[place] for place in places]))
            found = self._tower_vjp(grid, len(members), is_recomputed)(
                tower_params, pixels.astype(self._tower_dtype), towards
            )
            for name, gradient in found.items():
                gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return gradients

    @property
    def _trains_tower(self) -> bool:
        return any(not name.startswith(f"{self.language_prefix}.") for name in self.trained)

    @property
    def _merge_size(self) -> int:
        return int(self.module.config.vision_config.spatial_merge_size)

    @property
    def _n_deepstack(self) -> int:
        return len(getattr(self.module.config.vision_config, "deepstack_visual_indexes", None) or ())

    @property
    def _tower_dtype(self) -> mx.Dtype:
        dtype: mx.Dtype = self.module.vision_tower.patch_embed.proj.weight.dtype
        return dtype

    def _run_tower(self, grid: tuple[int, int, int], count: int, params: Params, pixels: mx.array) -> list[mx.array]:
        grids = mx.array([grid] * count)
        tower = self.module.vision_tower
        with bound(self.module, params), lean_tower(tower, grid, count, is_frozen=not params):
            output = tower(pixels, grids)
        if not isinstance(output, tuple):
            return [output]
        features, deepstack = output
        layers = [] if deepstack is None or not self._n_deepstack else list(deepstack)
        return [features, *layers]

    def _tower(self, grid: tuple[int, int, int], count: int) -> Callable[..., list[mx.array]]:
        """The tower with its grid fixed: only then can it be traced, since the grid decides its shapes."""

        def run(params: Params, pixels: mx.array) -> list[mx.array]:
            return self._run_tower(grid, count, params, pixels)

        if self.trained:
            # A trained tower's weights change: pass them in, rather than bake them into the trace.
            names = [name for name in self.trained if not name.startswith(f"{self.language_prefix}.")]
            compiled = self._compiled(("forward", grid, count), run)
            trainable = dict(tree_flatten(self.module.trainable_parameters()))
            return lambda _, pixels: compiled({name: trainable[name] for name in names}, pixels)
        return self._compiled(("frozen", grid, count), run)

    def _tower_vjp(self, grid: Grid, count: int, is_recomputed: bool) -> Callable[..., Params]:
        def run(params: Params, pixels: mx.array, cotangents: list[mx.array]) -> Params:
            names = sorted(params)
            _, gradients = mx.vjp(
                lambda *values: self._run_tower(grid, count, dict(zip(names, values, strict=True)), pixels),
                [params[name] for name in names],
                cotangents,
            )
            return dict(zip(names, gradients, strict=True))

        return self._compiled(("vjp", grid, count, is_recomputed), run)

    def _compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        if key not in self._traces:
            if len(self._traces) >= TOWER_TRACES:
                return function
            self._traces[key] = mx.compile(function)
        return self._traces[key]


def grid_images(rows: Sequence[Example]) -> list[Image]:
    """List the images of some rows in order: (grid in patches, what gives the patches [n, C])."""
    images: list[Image] = []
    for example in rows:
        grids = example.inputs.get("image_grid_thw")
        if grids is None:
            continue
        start = 0
        for grid in np.asarray(grids).tolist():
            count = grid[0] * grid[1] * grid[2]
            span = slice(start, start + count)
            # Asked for only if the tower runs: a row whose features are kept may have no pixels yet.
            images.append(((grid[0], grid[1], grid[2]), functools.partial(_patches, example, span)))
            start += count
    return images


def _patches(example: Example, span: slice) -> Any:
    return example.inputs["pixel_values"][span]


def join(patches: Sequence[Any]) -> mx.array:
    """Put images' patches together on the device."""
    if all(isinstance(part, mx.array) for part in patches):
        return mx.concatenate(list(patches))
    return mx.array(np.concatenate([np.asarray(part) for part in patches]))


def by_powers_of_two(numbers: Sequence[int]) -> list[Sequence[int]]:
    """Part a sequence into as few as possible whose lengths are powers of two, the longest first."""
    parts = []
    while numbers:
        length = 1 << (len(numbers).bit_length() - 1)
        parts.append(numbers[:length])
        numbers = numbers[length:]
    return parts


def group_by_grid(
    images: Sequence[Image],
) -> dict[tuple[int, int, int], list[int]]:
    """Group image numbers by their grid."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, (grid, _) in enumerate(images):
        groups.setdefault(grid, []).append(index)
    return groups
