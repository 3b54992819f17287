"""The tower of the Qwen-VL lineage: patches and a grid per image.

Images of a batch go through the tower together, whatever their sizes, in few compiled shapes: see
`models/backbone/patch_bins.py`.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...errors import BatchError
from ...features.cache import Entry, FeatureCache
from ...ops.modules import read_array
from ...train.backbone import Params
from ...train.state import bound_params
from ...types import Batch, BoolArray, Example, IntArray, Tree
from ..forward.lm_inputs import LMInputs, leaves, partition_inputs
from ..forward.merging import scatter_layers
from .mrope import mrope_positions
from .patch_bins import Grid, Pass, count_patches, plan_passes
from .patch_tower import Inputs, TowerShape, in_bins, lay_out_pixels, lay_out_sizes, merge_size, place, run_tower
from .pixels import Pixels, pixel_layout
from .same_images import add_up, find_owners, find_shown

TOWER_TRACES = 256
"""Most compiled traces of a tower, one per number and length of bins; further shapes run eagerly."""

KEPT_SIZES = 16
"""Most passes whose layouts are kept on the device: data sets of few image sizes need the same ones in every step."""

Image = tuple[Grid, Callable[[], Pixels | mx.array]]
"""A grid in patches, and a function that returns the patches [n, C]."""


@attrs.frozen(eq=False)
class LaidOutPass:
    """A pass of images through the tower, with its inputs.

    Attributes:
        found: The places of the images.
        members: Their numbers in the batch.
        shape: The shape of the tower's trace.
        inputs: Its arrays, pixels packed.
    """

    found: Pass
    members: Sequence[int]
    shape: TowerShape
    inputs: Inputs


@attrs.frozen(eq=False)
class LaidOut:
    """The layout of a batch for embedding; made by `GridTower.lay_out` in any thread.

    Attributes:
        is_image: bool[B, T], marks the tokens that stand for images.
        positions: i32[3, B, T].
        wanted: Numbers of the images without kept features.
        passes: Passes of those images.
    """

    is_image: BoolArray
    positions: IntArray
    wanted: Sequence[int]
    passes: Sequence[LaidOutPass]


@attrs.define(eq=False)
class GridTower:
    """The half of the model that turns images and tokens into the language model's inputs.

    Attributes:
        module: The mlx-vlm model.
        language_prefix: The language model's name within it.
        trained: Names of the trainable parameters that embedding uses.
        features: Keeps the features of images while the tower is frozen.
        gathered: Names of frozen parameters of the tower that are there only while it runs.
    """

    module: nn.Module
    language_prefix: str
    trained: frozenset[str]
    features: FeatureCache | None = None
    gathered: Sequence[str] = ()
    _traces: dict[tuple[Any, ...], Callable[..., Any]] = attrs.field(factory=dict, init=False)
    _sizes: dict[tuple[Pass, tuple[Grid, ...]], tuple[TowerShape, Inputs]] = attrs.field(factory=dict, init=False)

    def lay_out(self, batch: Batch) -> LaidOut:
        """Do the part of embedding that does not depend on earlier steps; safe to call from any thread.

        Raises:
            BatchError: A row's image tokens do not match its grids.
        """
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
        images = grid_images(batch.rows)
        cache, keys = self._cache(batch.rows, images)
        firsts = sorted(set(find_owners(keys, len(images))))
        wanted = [number for number in firsts if cache is None or keys[number] not in cache]
        return LaidOut(is_image, positions, wanted, self._lay_out_passes(images, wanted))

    def embed(self, batch: Batch) -> LMInputs:
        """Make the language model's inputs of a batch.

        Raises:
            BatchError: A row's image tokens do not match its grids.
        """
        laid = self._laid_out(batch)
        return self._merge(batch, laid, *self._features(batch.rows, laid))

    def _laid_out(self, batch: Batch) -> LaidOut:
        return batch.ahead if isinstance(batch.ahead, LaidOut) else self.lay_out(batch)

    def _cache(self, rows: Sequence[Example], images: Sequence[Image]) -> tuple[FeatureCache | None, list[str]]:
        """Return the cache of a batch's images and their keys; None if features are not kept."""
        keys = [key for example in rows for key in example.image_keys]
        is_kept = len(keys) == len(images) and not self._trains_tower
        return (self.features if is_kept else None), keys

    def _features(
        self, rows: Sequence[Example], laid: LaidOut, *, counted: bool = True
    ) -> tuple[list[mx.array], list[list[mx.array]]]:
        """Return the features of a batch's images, kept ones or the tower's.

        Args:
            rows: The batch's.
            laid: Their layout.
            counted: Whether the images count in the statistics of kept and computed features.

        Returns:
            For each image in order: its features f[n, D], and the deepstack's, one per layer.
        """
        images = grid_images(rows)
        cache, keys = self._cache(rows, images)
        # One that several rows show, such as the two answers of a pair, goes through the tower once.
        owners = find_owners(keys, len(images))
        firsts = sorted(set(owners))
        kept: dict[int, Entry] = {}
        if cache is not None:
            # Those that were on no disk yet when the rows were read ahead.
            cache.load(keys[index] for index in firsts)
            found = {index: cache.get(keys[index], int(counted)) for index in firsts}
            kept = {index: entry for index, entry in found.items() if entry is not None}
        wanted = [index for index in firsts if index not in kept]
        # Another batch may have computed one of these images since.
        computed = self._run(laid.passes if wanted == laid.wanted else self._lay_out_passes(images, wanted), images)
        kept |= computed
        if cache is not None:
            cache.put({keys[index]: entry for index, entry in computed.items()})
        ordered = [[kept[index][str(number)] for number in range(len(kept[index]))] for index in owners]
        return [layers[0] for layers in ordered], [layers[1:] for layers in ordered]

    def _run(self, passes: Sequence[LaidOutPass], images: Sequence[Image]) -> dict[int, Entry]:
        """Run the tower on some of the images: number to features, then those of the deepstack."""
        results: dict[int, Entry] = {}
        unit = self._merge_size**2
        for own in passes:
            outputs = self._tower(own.shape)({}, self._unpacked(own.inputs))
            for start, number in zip(own.found.starts, own.members, strict=True):
                span = slice(start // unit, (start + count_patches(images[number][0])) // unit)
                results[number] = {str(layer): output[span] for layer, output in enumerate(outputs)}
        return results

    def _lay_out_passes(self, images: Sequence[Image], wanted: Sequence[int]) -> list[LaidOutPass]:
        """Plan passes for some of the images, and make the tower's inputs for each."""
        tower = self.module.vision_tower
        laid: list[LaidOutPass] = []
        for found in plan_passes([images[number][0] for number in wanted], self._merge_size**2):
            members = [wanted[member] for member in found.members]
            pixels = pixel_layout(tower).alike([images[number][1]() for number in members])
            shape, inputs = self._lay_out_sizes(found, [images[number][0] for number in members])
            laid.append(LaidOutPass(found, members, shape, {**inputs, "pixels": lay_out_pixels(found, pixels)}))
        return laid

    def _lay_out_sizes(self, found: Pass, grids: Sequence[Grid]) -> tuple[TowerShape, Inputs]:
        """Make the tower's inputs of a pass except pixels; those of the last sizes are kept."""
        key = (attrs.evolve(found, members=()), tuple(grids))
        known = self._sizes.get(key)
        if known is None:
            known = self._sizes[key] = lay_out_sizes(self.module.vision_tower, found, grids)
            for old in list(self._sizes)[:-KEPT_SIZES]:
                self._sizes.pop(old, None)
        return known

    def _unpacked(self, inputs: Inputs) -> Inputs:
        return {**inputs, "pixels": pixel_layout(self.module.vision_tower).unpack(inputs["pixels"])}

    def _merge(
        self, batch: Batch, laid: LaidOut, features: list[mx.array], deepstack: list[list[mx.array]]
    ) -> dict[str, Any]:
        n_rows, length = batch.tokens.shape
        embeds = self.module.language_model.model.embed_tokens(batch.tokens)
        width = embeds.shape[-1]
        n_layers = self._n_deepstack
        blank = mx.zeros((n_rows, length, width), dtype=embeds.dtype)
        onto = [embeds, *([blank] * n_layers)]
        if features:
            images = [features, *([image[layer] for image in deepstack] for layer in range(n_layers))]
            onto = scatter_layers(onto, [mx.concatenate(layer) for layer in images], laid.is_image)
        fields: dict[str, Any] = {"position_ids": mx.array(laid.positions), "inputs_embeds": onto[0]}
        if n_layers:
            # Also without images, so that text-only batches share the trace.
            fields["deepstack_visual_embeds"] = onto[1:]
            fields["visual_pos_masks"] = mx.array(laid.is_image)
        return fields

    def gradients(self, batch: Batch, trainable: Params, cotangents: Tree, *, is_recomputed: bool = False) -> Params:
        """Compute the gradients behind `embed`: directly for the embedding table, pass by pass for the tower.

        `is_recomputed` distinguishes traces with checkpointed layers.
        """
        names = sorted(self.trained)
        tower_names = [name for name in names if not name.startswith(f"{self.language_prefix}.")]
        table_names = [name for name in names if name.startswith(f"{self.language_prefix}.")]
        laid = self._laid_out(batch)
        features, deepstack = self._features(batch.rows, laid, counted=False)
        n_images, n_layers = len(features), self._n_deepstack
        flat = [*features, *(layer for image in deepstack for layer in image)]

        def merge(table: list[mx.array], flat: list[mx.array]) -> list[mx.array]:
            layers = [
                flat[n_images + image * n_layers : n_images + (image + 1) * n_layers] for image in range(n_images)
            ]
            with bound_params(self.module, dict(zip(table_names, table, strict=True))):
                fields = self._merge(batch, laid, flat[:n_images], layers)
            return leaves(partition_inputs(fields)[0])

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
        unit = self._merge_size**2
        shown = find_shown(find_owners(self._cache(batch.rows, grid_images(batch.rows))[1], n_images))
        # With a trained tower no features are kept: all images are computed.
        for own in laid.passes:
            members = [shown[index] for index in own.members]
            towards = [place(own.found, [add_up([pulled[n_table + i] for i in same]) for same in members], unit)]
            for layer in range(n_layers):
                first = n_table + n_images + layer
                parts = [add_up([pulled[first + i * n_layers] for i in same]) for same in members]
                towards.append(place(own.found, parts, unit))
            run = self._tower_vjp(own.shape, is_recomputed)
            for name, gradient in run(tower_params, self._unpacked(own.inputs), towards).items():
                gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return gradients

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
        with bound_params(self.module, params):
            outputs = run_tower(self.module.vision_tower, shape, inputs)
        return outputs[: 1 + self._n_deepstack]

    def _in_bins(self, shape: TowerShape, inputs: Inputs) -> AbstractContextManager[None]:
        return in_bins(self.module.vision_tower, shape, inputs)

    def _tower(self, shape: TowerShape) -> Callable[..., list[mx.array]]:
        """The tower for one number and length of bins."""

        def run(params: Params, inputs: Inputs) -> list[mx.array]:
            with self._in_bins(shape, inputs):
                return self._run_tower(shape, params, inputs)

        if self.trained or self.gathered:
            # Weights that change, or come and go, are arguments of the trace, and not constants.
            names = [name for name in self.trained if not name.startswith(f"{self.language_prefix}.")]
            compiled = self._compiled(("forward", shape), run)
            held = {name: read_array(self.module, name) for name in (*names, *self.gathered)}
            return lambda _, inputs: compiled(held, inputs)
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
    """List the images of some rows in order: (grid in patches, function that returns the patches [n, C])."""
    images: list[Image] = []
    for example in rows:
        grids = example.inputs.get("image_grid_thw")
        if grids is None:
            continue
        start = 0
        for frames, rows_of_patches, columns in np.asarray(grids).tolist():
            grid = (frames, rows_of_patches, columns)
            span = slice(start, start + count_patches(grid))
            # Read only if the tower runs: rows with kept features may have no pixels yet.
            images.append((grid, functools.partial(_patches, example, span)))
            start += count_patches(grid)
    return images


def _patches(example: Example, span: slice) -> Pixels | mx.array:
    patches: Pixels | mx.array = example.inputs["pixel_values"][span]
    return patches
