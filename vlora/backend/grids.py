"""The tower of the Qwen-VL lineage: patches and a grid per image.

Images of a batch go through the tower together, whatever their sizes, in few compiled shapes: see `bins.py`.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..errors import BatchError
from ..steps import Params, bound
from ..types import Batch, Example, Tree
from .bins import Grid, Pass, count_patches, plan_passes
from .corrections import scatter_layers
from .features import Entry, FeatureCache
from .fields import Fields, divide_fields, leaves
from .positions import mrope_positions
from .towers import Inputs, TowerShape, in_bins, lay_out_inputs, merge_size, place, run_tower

TOWER_TRACES = 256
"""Compiled towers kept, one per number and length of bins; further ones run eagerly."""

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
        """Run the tower over a batch's images, or find their features.

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
        computed = self._run_images(images, [index for index in range(len(images)) if index not in kept])
        kept |= computed
        if cache is not None:
            cache.put({keys[index]: entry for index, entry in computed.items()})
        ordered = [[kept[index][str(number)] for number in range(len(kept[index]))] for index in range(len(images))]
        return [layers[0] for layers in ordered], [layers[1:] for layers in ordered]

    def _run_images(self, images: Sequence[Image], wanted: Sequence[int]) -> dict[int, Entry]:
        """Run the tower over some of the images: number to features, then the deepstack's."""
        results: dict[int, Entry] = {}
        unit = self._merge_size**2
        for found, members in self._plan(images, wanted):
            shape, inputs = self._lay_out(found, [images[number] for number in members])
            outputs = self._tower(shape)({}, inputs)
            for start, number in zip(found.starts, members, strict=True):
                span = slice(start // unit, (start + count_patches(images[number][0])) // unit)
                results[number] = {str(layer): output[span] for layer, output in enumerate(outputs)}
        return results

    def _plan(self, images: Sequence[Image], wanted: Sequence[int]) -> list[tuple[Pass, list[int]]]:
        """Plan the passes of some of the images: each with the numbers of its images."""
        passes = plan_passes([images[number][0] for number in wanted], self._merge_size**2)
        return [(found, [wanted[member] for member in found.members]) for found in passes]

    def _lay_out(self, found: Pass, images: Sequence[Image]) -> tuple[TowerShape, Inputs]:
        grids, pixels = [grid for grid, _ in images], [patches() for _, patches in images]
        shape, inputs = lay_out_inputs(self.module.vision_tower, found, grids, pixels)
        inputs["pixels"] = inputs["pixels"].astype(self.pixel_type)
        return shape, inputs

    def _merge(self, batch: Batch, features: list[mx.array], deepstack: list[list[mx.array]]) -> dict[str, Any]:
        n_rows, length = batch.tokens.shape
        is_image = np.zeros((n_rows, length), dtype=np.bool_)
        positions = np.zeros((3, n_rows, length), dtype=np.int32)
        for example, (row, start, count) in zip(batch.rows, batch.spans, strict=True):
            own = example.tokens[:count] == self.module.config.image_token_id
            grids = [grid for grid, _ in grid_images([example])]
            expected = sum(count_patches(grid) for grid in grids) // self._merge_size**2
            if int(own.sum()) != expected:
                msg = f"{example.source}: {int(own.sum())} image tokens stand for {expected} image features"
                raise BatchError(msg)
            is_image[row, start : start + count] = own
            positions[:, row, start : start + count] = mrope_positions(own, grids, self._merge_size)
        embeds = self.module.language_model.model.embed_tokens(batch.tokens)
        width = embeds.shape[-1]
        n_layers = self._n_deepstack
        blank = mx.zeros((n_rows, length, width), dtype=embeds.dtype)
        onto = [embeds, *([blank] * n_layers)]
        if features:
            images = [features, *([image[layer] for image in deepstack] for layer in range(n_layers))]
            onto = scatter_layers(onto, [mx.concatenate(layer) for layer in images], is_image)
        fields: dict[str, Any] = {"position_ids": mx.array(positions), "inputs_embeds": onto[0]}
        if n_layers:
            # Also without images, so that text-only batches share the trace.
            fields["deepstack_visual_embeds"] = onto[1:]
            fields["visual_pos_masks"] = mx.array(is_image)
        return fields

    def gradients(self, batch: Batch, trainable: Params, cotangents: Tree, *, is_recomputed: bool = False) -> Params:
        """The gradients behind `embed`: of the embedding table directly, of the tower pass by pass.

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
        unit = self._merge_size**2
        for found, members in self._plan(images, range(n_images)):
            shape, inputs = self._lay_out(found, [images[number] for number in members])
            towards = [place(found, [pulled[n_table + index] for index in members], unit)]
            for layer in range(n_layers):
                places = [n_table + n_images + index * n_layers + layer for index in members]
                towards.append(place(found, [pulled[index] for index in places], unit))
            for name, gradient in self._tower_vjp(shape, is_recomputed)(tower_params, inputs, towards).items():
                gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return gradients

    @property
    def pixel_type(self) -> mx.Dtype:
        """The type in which the tower takes pixels."""
        dtype: mx.Dtype = self.module.vision_tower.patch_embed.proj.weight.dtype
        return dtype

    @property
    def _trains_tower(self) -> bool:
        return any(not name.startswith(f"{self.language_prefix}.") for name in self.trained)

    @property
    def _merge_size(self) -> int:
        return merge_size(self.module.vision_tower)

    @property
    def _n_deepstack(self) -> int:
        return len(getattr(self.module.config.vision_config, "deepstack_visual_indexes", None) or ())

    def _run_tower(self, shape: TowerShape, params: Params, inputs: Inputs) -> list[mx.array]:
        with bound(self.module, params):
            outputs = run_tower(self.module.vision_tower, shape, inputs)
        return outputs[: 1 + self._n_deepstack]

    def _in_bins(self, shape: TowerShape, inputs: Inputs) -> AbstractContextManager[None]:
        return in_bins(self.module.vision_tower, shape, inputs)

    def _tower(self, shape: TowerShape) -> Callable[..., list[mx.array]]:
        """The tower for one number and length of bins."""

        def run(params: Params, inputs: Inputs) -> list[mx.array]:
            with self._in_bins(shape, inputs):
                return self._run_tower(shape, params, inputs)

        if self.trained:
            # A trained tower's weights change: pass them in, rather than bake them into the trace.
            names = [name for name in self.trained if not name.startswith(f"{self.language_prefix}.")]
            compiled = self._compiled(("forward", shape), run)
            trainable = dict(tree_flatten(self.module.trainable_parameters()))
            return lambda _, inputs: compiled({name: trainable[name] for name in names}, inputs)
        return self._compiled(("frozen", shape), run)

    def _tower_vjp(self, shape: TowerShape, is_recomputed: bool) -> Callable[..., Params]:
        def run(params: Params, inputs: Inputs, cotangents: list[mx.array]) -> Params:
            names = sorted(params)
            with self._in_bins(shape, inputs):
                _, gradients = mx.vjp(
                    lambda *values: self._run_tower(shape, dict(zip(names, values, strict=True)), inputs),
                    [params[name] for name in names],
                    cotangents,
                )
            return dict(zip(names, gradients, strict=True))

        return self._compiled(("vjp", shape, is_recomputed), run)

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
        for frames, rows_of_patches, columns in np.asarray(grids).tolist():
            grid = (frames, rows_of_patches, columns)
            span = slice(start, start + count_patches(grid))
            # Asked for only if the tower runs: a row whose features are kept may have no pixels yet.
            images.append((grid, functools.partial(_patches, example, span)))
            start += count_patches(grid)
    return images


def _patches(example: Example, span: slice) -> Any:
    return example.inputs["pixel_values"][span]
