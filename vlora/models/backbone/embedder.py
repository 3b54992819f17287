"""The half of a model before its language model: rows and their images become the language model's inputs."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...adapters.model_parts import ModelParts
from ...features.cache import FeatureCache
from ...train.backbone import Params
from ...train.grad_checkpoint import checkpointed
from ...types import Batch, Example, Tree
from ..families.family import Family
from ..forward.collating import collate_inputs, concat_inputs
from ..forward.lm_inputs import SEGMENTS, partition_inputs
from .embed import kept_rows, pull_embedding, row_key
from .grid_tower import GridTower
from .parts import find_layout, tower_layers, used_by_embed
from .pixels import pack_pixels
from .shards import Shards
from .shared_images import SharedTowers


@attrs.define(eq=False)
class Embedder:
    """A loaded model that makes inputs of its language model, and keeps features of images.

    Attributes:
        module: The mlx-vlm model.
        family: Its description.
        language_prefix: The language model's name within it; empty if the whole model is one.
        shards: This rank's parts of its frozen weights, if they are divided; see `divide`.
    """

    module: nn.Module
    family: Family
    language_prefix: str
    shards: Shards | None = attrs.field(default=None, init=False)
    _grid_tower: GridTower | None = attrs.field(default=None, init=False)
    _shared: SharedTowers = attrs.field(factory=SharedTowers, init=False)
    _embed_names: frozenset[str] | None = attrs.field(default=None, init=False)
    _features: FeatureCache | None = attrs.field(default=None, init=False)

    @property
    def layout(self) -> ModelParts:
        """The places of its parts."""
        return find_layout(self.family, self.language_prefix)

    @property
    def tower_layers(self) -> Sequence[Sequence[nn.Module]]:
        """The stacks of like layers outside the language model."""
        return tower_layers(self.module, self.layout)

    def is_language(self, name: str) -> bool:
        """Whether a module or parameter belongs to the language model, by its qualified name."""
        return self.layout.is_language(name)

    def embed_rows(self, batch: Batch) -> tuple[Tree, Tree]:
        """Make the language model's inputs of a batch, in the batch's own rows.

        Returns:
            (differentiable, auxiliary): floating-point arrays that gradients flow through, and positions and masks;
            leading dimensions B, T.

        Raises:
            BatchError: A row's image tokens do not match its image features.
        """
        (n_rows, length), forward = batch.tokens.shape, self.family.forward
        with forward.embed_overrides(self.module), self.shards.embeds() if self.shards else nullcontext():
            if forward.has_grid_tower:
                fields = self._grids().embed(batch)
            else:
                cache = None if self.embed_param_names() else self._features
                rows = kept_rows(self.module, self.family, self.layout, batch.rows, cache, self._shared)
                if batch.segment_ids is not None:
                    rows = concat_inputs(rows, batch.spans, forward.layouts)
                fields = collate_inputs(rows, n_rows, length, forward.layouts, forward.stack_inputs)
        segments = {} if batch.segment_ids is None else {SEGMENTS: batch.segment_ids}
        return partition_inputs({**fields, **segments}, forward.layouts)

    def embed_param_names(self) -> frozenset[str]:
        """Name the trainable parameters that `embed` uses: all outside the language model, and its embeddings."""
        # Once: until an adapter is attached, the trainable parameters stay the same.
        if self._embed_names is None:
            self._embed_names = frozenset(self._used_by_embed(dict(tree_flatten(self.module.trainable_parameters()))))
        return self._embed_names

    def feature_weights(self) -> Params:
        """Return the weights that kept features depend on: the tower's, or all that embedding uses."""
        params = dict(tree_flatten(self.module.parameters()))
        if self.family.forward.has_grid_tower:
            return {name: value for name, value in params.items() if name.startswith("vision_tower.")}
        return {name: params[name] for name in self._used_by_embed(params)}

    def why_features_change(self) -> str | None:
        """Describe the trained parts that features depend on, so that they cannot be kept; None if there are none."""
        trained = self.embed_param_names()
        if any(not self.is_language(name) for name in trained):
            return "the vision tower or the connector is trained"
        if trained and not self.family.forward.has_grid_tower:
            return "the token embeddings are trained, and this family's features are kept together with them"
        return None

    def _used_by_embed(self, names: Iterable[str]) -> list[str]:
        return used_by_embed(self.module, self.layout, self.family.parts.embedding_parts, names)

    def embed_vjp(self, batch: Batch, cotangents: Tree, checkpoint_modules: Sequence[nn.Module] = ()) -> Params:
        """Compute the gradients of the parameters behind `embed` from those of its features.

        Args:
            batch: The embedded batch.
            cotangents: The gradients of the features, as `embed` returns them.
            checkpoint_modules: Modules whose activations are recomputed.
        """
        trainable = dict(tree_flatten(self.module.trainable_parameters()))
        params = {name: trainable[name] for name in sorted(self.embed_param_names())}
        if self.family.forward.has_grid_tower:
            with self.family.forward.embed_overrides(self.module), checkpointed(checkpoint_modules):
                return self._grids().gradients(batch, params, cotangents, is_recomputed=bool(checkpoint_modules))
        with checkpointed(checkpoint_modules):
            return pull_embedding(self.module, lambda: self.embed_rows(batch)[0], params, cotangents)

    def keep_features(self, cache: FeatureCache | None) -> None:
        """Keep the tower's features of images; nothing that they depend on may be trained."""
        self._features = cache
        self._grid_tower = None

    def has_features(self, example: Example) -> bool:
        """Whether all features of a row's images are kept; safe to call from any thread."""
        cache = self._features
        if cache is None or self.why_features_change() is not None:
            return False
        return bool(example.image_keys) and all(key in cache for key in self._feature_keys(example))

    def read_ahead(self, example: Example) -> Example:
        """Read a row's kept features from disk, or pack its pixels; safe to call from any thread."""
        cache = self._features
        if cache is not None and self.has_features(example):
            cache.load(self._feature_keys(example))
            return example
        return pack_pixels(self.module.vision_tower, example) if self.family.forward.has_grid_tower else example

    def prepare_batch(self, batch: Batch) -> Batch:
        """Prepare the embedding of a batch in advance; safe to call from any thread.

        Raises:
            BatchError: A row's image tokens do not match its grids.
        """
        if not self.family.forward.has_grid_tower:
            return batch
        laid = self._grids().lay_out(batch)
        # Evaluated here, so that another thread does not wait for this one's stream.
        mx.eval([own.inputs for own in laid.passes])
        return batch._replace(ahead=laid)

    def forget_traces(self) -> None:
        """Drop the tower's traces, which hold arrays without data or other layers, and names of what is trained."""
        self._grid_tower = self._embed_names = None

    def _feature_keys(self, example: Example) -> tuple[str, ...]:
        """Give what a row's features are kept under: each image's, or all of the row together."""
        return example.image_keys if self.family.forward.has_grid_tower else (row_key(example),)

    def _grids(self) -> GridTower:
        trained = self.embed_param_names()
        if self._grid_tower is None or self._grid_tower.trained != trained:
            given = () if self.shards is None else self.shards.embedding_names
            self._grid_tower = GridTower(self.module, self.language_prefix, trained, self._features, given)
        return self._grid_tower
