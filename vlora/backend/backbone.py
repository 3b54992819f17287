"""An mlx-vlm model as the `Backbone` that the training step needs.

mlx-vlm's own batch path gives images to the wrong row in some families, keeps positions on the module between
batches in others, and cannot be traced. So the two halves are driven apart: rows are embedded here, on the host
where values decide, and only then stacked; the language model gets dense arrays, keywords only, no 2-D mask
(it would replace the causal one), no cache.
"""

from collections.abc import Callable, Mapping, Sequence
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
from .families import Family, scatter_features
from .positions import mrope_positions

EDGE_PADDED = ("inputs_embeds", "per_layer_inputs")
"""Fields f[1, T, ...] padded by repeating the last position; zeros give NaN in some families."""

STACKED_FIELDS = (
    *EDGE_PADDED,
    "position_ids",
    "deepstack_visual_embeds",
    "cross_attention_states",
    "cross_attention_mask",
    "full_text_row_masked_out_mask",
)
MASKED = -1e9
TOWER_TRACES = 64
"""Compiled towers kept, one per image size and count; further ones run eagerly."""


@attrs.define(eq=False)
class MlxVlmBackbone:
    """A loaded model with its family's description; implements `vlora.steps.Backbone`.

    Attributes:
        module: The mlx-vlm model.
        family: Its description.
        language_prefix: The language model's name within it.
    """

    module: nn.Module
    family: Family
    language_prefix: str
    _towers: dict[tuple[Any, ...], Callable[..., Any]] = attrs.field(factory=dict, init=False)
    _embed_names: frozenset[str] | None = attrs.field(default=None, init=False)

    @property
    def language_model(self) -> nn.Module:
        """The language model, its head included."""
        return self.module.language_model

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The language model's layer stack: the list of modules nearest to its root, the longest of several."""
        stacks = [
            (-name.count("."), len(value), value)
            for name, module in self.language_model.named_modules()
            for value in module.children().values()
            if isinstance(value, list) and value and all(isinstance(layer, nn.Module) for layer in value)
        ]
        return max(stacks, key=lambda stack: stack[:2])[2]

    def embed(self, batch: Batch) -> tuple[Tree, Tree]:
        """Make the language model's inputs of a batch.

        Returns:
            (features, others): floating-point arrays that gradients flow through, and positions and masks;
            leading dimensions B, T.

        Raises:
            BatchError: A row's image tokens do not match its image features.
        """
        n_rows, length = batch.tokens.shape
        with self.family.while_embedding(self.module):
            if self.family.has_grid_tower:
                fields = self._embed_grids(batch, *self._grid_features(batch.rows))
            else:
                rows = [self._embed_row(example) for example in batch.rows]
                fields = stack_fields(rows, n_rows, length)
        floating = {
            name: value
            for name, value in fields.items()
            if name not in ("position_ids", "cross_attention_mask", "full_text_row_masked_out_mask")
        }
        return floating, {name: value for name, value in fields.items() if name not in floating}

    def embed_names(self) -> frozenset[str]:
        """Name the trainable parameters that `embed` uses: all outside the language model, and its embeddings.

        Found once: what is trainable is settled before the first step is made.
        """
        if self._embed_names is None:
            trainable = [name for name, _ in tree_flatten(self.module.trainable_parameters())]
            inside = f"{self.language_prefix}."
            tables = tuple(
                f"{name}."
                for name, module in self.module.named_modules()
                if isinstance(module, nn.Embedding) and name.startswith(inside)
            )
            self._embed_names = frozenset(
                name for name in trainable if not name.startswith(inside) or name.startswith(tables)
            )
        return self._embed_names

    def embed_gradients(self, batch: Batch, cotangents: Tree) -> Params:
        """Carry the gradients of `embed`'s features on to the parameters behind them."""
        names = sorted(self.embed_names())
        trainable = dict(tree_flatten(self.module.trainable_parameters()))
        values = [trainable[name] for name in names]
        wanted = [value for _, value in tree_flatten(cotangents)]
        if self.family.has_grid_tower:
            return self._grid_gradients(batch, names, values, cotangents)

        def outputs(*values: mx.array) -> list[mx.array]:
            with bound(self.module, dict(zip(names, values, strict=True))):
                features, _ = self.embed(batch)
            return [value for _, value in tree_flatten(features)]

        _, gradients = mx.vjp(outputs, values, wanted)
        return dict(zip(names, gradients, strict=True))

    def logits(self, tokens: mx.array, features: Tree, others: Tree) -> mx.array:
        """Run the language model on embedded rows; safe to trace.

        Args:
            tokens: i32[B, T].
            features: As `embed` returns them.
            others: As `embed` returns them.

        Returns:
            f[B, T, V].
        """
        fields = {**features, **others}
        if "deepstack_visual_embeds" in fields:
            # The features are dense; the mask is only asked for its presence.
            fields["visual_pos_masks"] = tokens
        # Every family's first argument is the ids, under two names; the rest goes by keyword.
        output = self.language_model(tokens, mask=None, cache=None, **fields)
        logits: mx.array = output.logits
        return logits

    def corrected(self) -> AbstractContextManager[None]:
        """Correct the language model for as long as `logits` and its gradient run."""
        return self.family.while_training(self.module)

    def _embed_row(self, example: Example) -> dict[str, Any]:
        """Embed one row alone, without padding, as the model does when it generates."""
        reset_positions(self.language_model)
        inputs = {name: to_device(value) for name, value in self.family.mend_inputs(dict(example.inputs)).items()}
        tokens = mx.array(example.tokens)[None]
        try:
            features = self.module.get_input_embeddings(
                tokens, inputs.pop("pixel_values", None), mask=mx.ones_like(tokens), **inputs
            )
        except ValueError as error:
            msg = f"{example.source}: the model cannot place the row's images ({error})"
            raise BatchError(msg) from error
        fields = {name: value for name, value in features.to_dict().items() if value is not None}
        if not example.inputs:
            fields |= self.family.text_only_fields(self.module, len(example.tokens))
        if fields["inputs_embeds"].shape[1] != len(example.tokens):
            msg = (
                f"{example.source}: {len(example.tokens)} tokens became {fields['inputs_embeds'].shape[1]} embeddings; "
                "vlora cannot tell which logit predicts which token in this family"
            )
            raise BatchError(msg)
        held = getattr(self.language_model, "_position_ids", None)
        if held is not None and "position_ids" not in fields:
            fields["position_ids"] = held
        reset_positions(self.language_model)
        # A copy: some language models scale their input in place.
        fields["inputs_embeds"] = mx.array(fields["inputs_embeds"])
        return {name: fields[name] for name in STACKED_FIELDS if name in fields}

    def _grid_features(self, rows: Sequence[Example]) -> tuple[list[mx.array], list[list[mx.array]]]:
        """Run the tower over a batch's images, those of one size together.

        Returns:
            For each image in order: its features f[n, D], and the deepstack's, one per layer.
        """
        merge = self._merge_size
        images = grid_images(rows)
        features: list[Any] = [None] * len(images)
        deepstack: list[Any] = [None] * len(images)
        for grid, members in group_by_grid(images).items():
            pixels = mx.array(np.concatenate([images[index][1] for index in members]))
            outputs = self._tower(grid, len(members))({}, pixels.astype(self._tower_dtype))
            n_tokens = grid[0] * (grid[1] // merge) * (grid[2] // merge)
            for place, index in enumerate(members):
                span = slice(place * n_tokens, (place + 1) * n_tokens)
                features[index] = outputs[0][span]
                deepstack[index] = [layer[span] for layer in outputs[1:]]
        return features, deepstack

    def _embed_grids(self, batch: Batch, features: list[mx.array], deepstack: list[list[mx.array]]) -> dict[str, Any]:
        n_rows, length = batch.tokens.shape
        is_image = np.zeros((n_rows, length), dtype=np.bool_)
        positions = np.zeros((3, n_rows, length), dtype=np.int32)
        for row, example in enumerate(batch.rows):
            is_image[row, : len(example.tokens)] = example.tokens == self.module.config.image_token_id
            grids = [grid for grid, _ in grid_images([example])]
            expected = sum(grid[0] * grid[1] * grid[2] for grid in grids) // self._merge_size**2
            if int(is_image[row].sum()) != expected:
                msg = f"{example.source}: {int(is_image[row].sum())} image tokens stand for {expected} image features"
                raise BatchError(msg)
            positions[:, row] = mrope_positions(is_image[row], grids, self._merge_size)
        embeds = self.language_model.model.embed_tokens(batch.tokens)
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
        return fields

    def _grid_gradients(self, batch: Batch, names: list[str], values: list[mx.array], cotangents: Tree) -> Params:
        """The gradients behind `_embed_grids`: of the embedding table directly, of the tower size by size."""
        trainable = dict(zip(names, values, strict=True))
        tower_names = [name for name in names if not name.startswith(f"{self.language_prefix}.")]
        table_names = [name for name in names if name.startswith(f"{self.language_prefix}.")]
        features, deepstack = self._grid_features(batch.rows)
        n_images, n_layers = len(features), self._n_deepstack
        flat = [*features, *(layer for image in deepstack for layer in image)]

        def merge(table: list[mx.array], flat: list[mx.array]) -> list[mx.array]:
            layers = [
                flat[n_images + image * n_layers : n_images + (image + 1) * n_layers] for image in range(n_images)
            ]
            with bound(self.module, dict(zip(table_names, table, strict=True))):
                fields = self._embed_grids(batch, flat[:n_images], layers)
            fields.pop("position_ids")
            return [value for _, value in tree_flatten(fields)]

        n_table = len(table_names)
        _, pulled = mx.vjp(
            lambda *all_values: merge(list(all_values[:n_table]), list(all_values[n_table:])),
            [*(trainable[name] for name in table_names), *flat],
            [value for _, value in tree_flatten(sorted_tree(cotangents))],
        )
        gradients: Params = dict(zip(table_names, pulled[:n_table], strict=True))
        if not tower_names or not n_images:
            zeros = {name: mx.zeros_like(trainable[name]) for name in tower_names}
            return {**gradients, **zeros}
        tower_params = {name: trainable[name] for name in tower_names}
        images = grid_images(batch.rows)
        for grid, members in group_by_grid(images).items():
            pixels = mx.array(np.concatenate([images[index][1] for index in members]))
            towards = [mx.concatenate([pulled[n_table + index] for index in members])]
            for layer in range(n_layers):
                places = [n_table + n_images + index * n_layers + layer for index in members]
                towards.append(mx.concatenate([pulled[place] for place in places]))
            found = self._tower_vjp(grid, len(members))(tower_params, pixels.astype(self._tower_dtype), towards)
            for name, gradient in found.items():
                gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return gradients

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
        with bound(self.module, params):
            output = self.module.vision_tower(pixels, grids)
        if not isinstance(output, tuple):
            return [output]
        features, deepstack = output
        layers = [] if deepstack is None or not self._n_deepstack else list(deepstack)
        return [features, *layers]

    def _tower(self, grid: tuple[int, int, int], count: int) -> Callable[..., list[mx.array]]:
        """The tower with its grid fixed: only then can it be traced, since the grid decides its shapes."""

        def run(params: Params, pixels: mx.array) -> list[mx.array]:
            return self._run_tower(grid, count, params, pixels)

        if self.embed_names():
            # A trained tower's weights change: pass them in, rather than bake them into the trace.
            names = [name for name in self.embed_names() if not name.startswith(f"{self.language_prefix}.")]
            compiled = self._compiled(("forward", grid, count), run)
            trainable = dict(tree_flatten(self.module.trainable_parameters()))
            return lambda _, pixels: compiled({name: trainable[name] for name in names}, pixels)
        return self._compiled(("frozen", grid, count), run)

    def _tower_vjp(self, grid: tuple[int, int, int], count: int) -> Callable[..., Params]:
        def run(params: Params, pixels: mx.array, cotangents: list[mx.array]) -> Params:
            names = sorted(params)
            _, gradients = mx.vjp(
                lambda *values: self._run_tower(grid, count, dict(zip(names, values, strict=True)), pixels),
                [params[name] for name in names],
                cotangents,
            )
            return dict(zip(names, gradients, strict=True))

        return self._compiled(("vjp", grid, count), run)

    def _compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        if key not in self._towers:
            if len(self._towers) >= TOWER_TRACES:
                return function
            self._towers[key] = mx.compile(function)
        return self._towers[key]


def grid_images(rows: Sequence[Example]) -> list[tuple[tuple[int, int, int], Any]]:
    """List the images of some rows in order: (grid in patches, patches [n, C])."""
    images = []
    for example in rows:
        grids = example.inputs.get("image_grid_thw")
        if grids is None:
            continue
        patches = np.asarray(example.inputs["pixel_values"])
        start = 0
        for grid in np.asarray(grids).tolist():
            count = grid[0] * grid[1] * grid[2]
            images.append(((grid[0], grid[1], grid[2]), patches[start : start + count]))
            start += count
    return images


def group_by_grid(
    images: Sequence[tuple[tuple[int, int, int], Any]],
) -> dict[tuple[int, int, int], list[int]]:
    """Group image numbers by their grid."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, (grid, _) in enumerate(images):
        groups.setdefault(grid, []).append(index)
    return groups


def sorted_tree(tree: Tree) -> Tree:
    """Order a dict's keys as `_embed_grids` writes them: embeddings first, then deepstack."""
    return {name: tree[name] for name in ("inputs_embeds", "deepstack_visual_embeds") if name in tree}


def reset_positions(language_model: nn.Module) -> None:
    """Forget the positions of the last batch, which some families would use again for the next one."""
    for name in ("_position_ids", "_rope_deltas"):
        if hasattr(language_model, name):
            setattr(language_model, name, None)


def to_device(value: Any) -> Any:
    """Turn host arrays into device arrays, lists of them included; leave the rest."""
    if isinstance(value, np.ndarray):
        return mx.array(value)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [mx.array(item) for item in value]
    return value


def stack_fields(rows: Sequence[Mapping[str, Any]], n_rows: int, length: int) -> dict[str, mx.array]:
    """Pad rows' fields on the right and stack them; filler rows repeat the last row.

    Args:
        rows: Per row: field name to array with a batch dimension of 1.
        n_rows: B, at least as many as there are rows.
        length: T.

    Returns:
        Field name to array, B first (second in 3-D position ids).
    """
    names = [name for name in STACKED_FIELDS if any(name in row for row in rows)]
    filled = [*rows, *([rows[-1]] * (n_rows - len(rows)))]
    stacked: dict[str, mx.array] = {}
    for name in names:
        if name == "cross_attention_states":
            stacked |= _stack_cross_attention(filled, length)
        elif name == "position_ids":
            values = [_pad_edge(row[name], length, axis=-1) for row in filled]
            stacked[name] = mx.concatenate(values, axis=values[0].ndim - 2)
        elif name in EDGE_PADDED:
            stacked[name] = mx.concatenate([_pad_edge(row[name], length, axis=1) for row in filled])
        elif name == "deepstack_visual_embeds":
            msg = "deepstack features reach the generic path; describe the family in vlora.backend.families"
            raise BatchError(msg)
    return stacked


def _pad_edge(array: mx.array, length: int, axis: int) -> mx.array:
    missing = length - array.shape[axis]
    if not missing:
        return array
    last = mx.take(array, mx.array([array.shape[axis] - 1]), axis=axis)
    return mx.concatenate([array, mx.repeat(last, missing, axis=axis)], axis=axis)


def _stack_cross_attention(rows: Sequence[Mapping[str, Any]], length: int) -> dict[str, mx.array]:
    """Stack Mllama's image states, ragged in their number, with their masks; added states are masked out."""
    n_states = max(row["cross_attention_states"].shape[1] for row in rows)
    states, masks, text = [], [], []
    for row in rows:
        missing = n_states - row["cross_attention_states"].shape[1]
        states.append(mx.pad(row["cross_attention_states"], [(0, 0), (0, missing), (0, 0)]))
        mask = _pad_edge(row["cross_attention_mask"].astype(mx.float32), length, axis=2)
        masks.append(mx.pad(mask, [(0, 0), (0, 0), (0, 0), (0, missing)], constant_values=MASKED))
        text.append(_pad_edge(row["full_text_row_masked_out_mask"], length, axis=2))
    dtype = rows[0]["cross_attention_states"].dtype
    return {
        "cross_attention_states": mx.concatenate(states),
        # In the model's own type: the attention takes no mask that would promote it.
        "cross_attention_mask": mx.concatenate(masks).astype(dtype),
        "full_text_row_masked_out_mask": mx.concatenate(text),
    }
