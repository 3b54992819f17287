"""An mlx-vlm model as the `Backbone` that the training step needs.

mlx-vlm's own batch path gives images to the wrong row in some families, keeps positions on the module between
batches in others, and cannot be traced. So the two halves are driven apart: rows are embedded here one by one, on
the host where values decide, and only then stacked; the language model gets dense arrays, keywords only, no 2-D mask
(it would replace the causal one), no cache.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ...adapters.targets import ModelParts
from ...errors import BatchError, ModelError
from ...features.cache import FeatureCache, digest
from ...train.backbone import Params
from ...train.grad_checkpoint import CheckpointPart, check_every, checkpointed, choose_modules
from ...train.state import bound_params
from ...types import Batch, Example, Tree
from ..families.family import Family
from ..forward.calls import NOT_PASSED
from ..forward.lm_inputs import (
    LOGIT_PLACES,
    PROMPT,
    SEGMENTS,
    LMInputs,
    collate_inputs,
    concat_inputs,
    leaves,
    partition_inputs,
)
from ..forward.overrides import chain
from .fused import FusedModules, running_fused
from .grid_tower import GridTower
from .head import Head, capture_hidden, find_head, find_module, gather_before_head, run_head_only
from .pixels import pixel_layout
from .vocabulary import Vocabulary, count_vocabulary

PROBE_TOKENS = 6


@attrs.define(eq=False)
class MlxVlmBackbone:
    """A loaded model with its family's description; implements `vlora.train.backbone.Backbone`.

    Attributes:
        module: The mlx-vlm model.
        family: Its description.
        language_prefix: The language model's name within it; empty if the whole model is one.
        head: The head, if it can be run at selected places; see `detect_head`.
        lean_parts: What of the language model can be run leaner; see `find_fused_modules`.
    """

    module: nn.Module
    family: Family
    language_prefix: str
    head: Head | None = attrs.field(default=None, init=False)
    lean_parts: FusedModules = attrs.field(factory=FusedModules, init=False)
    _grid_tower: GridTower | None = attrs.field(default=None, init=False)
    _embed_names: frozenset[str] | None = attrs.field(default=None, init=False)
    _head_names: frozenset[str] | None = attrs.field(default=None, init=False)
    _features: FeatureCache | None = attrs.field(default=None, init=False)
    _vocabulary: Vocabulary | None = attrs.field(default=None, init=False)

    @property
    def language_model(self) -> nn.Module:
        """The language model, its head included."""
        return find_module(self.module, self.language_prefix)

    @property
    def layout(self) -> ModelParts:
        """Where its parts lie."""
        return find_layout(self.family, self.language_prefix)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The language model's layers: the list of modules nearest to its root, the longest of several."""
        stacks = [
            (-name.count("."), len(value), value)
            for name, module in self.module.named_modules()
            if self.is_language(name)
            for value in _stacks(module)
        ]
        return max(stacks, key=lambda stack: stack[:2])[2]

    @property
    def tower_layers(self) -> Sequence[Sequence[nn.Module]]:
        """The stacks of like layers outside the language model, the outermost of those within one another."""
        stacks: list[tuple[str, list[nn.Module]]] = []
        for name, module in sorted(self.module.named_modules(), key=lambda named: named[0].count(".")):
            if self.layout.part(name) in ("vision", "connector") and not name.startswith(tuple(s for s, _ in stacks)):
                stacks += [
                    (f"{name}.", value)
                    for value in _stacks(module)
                    if len(value) > 1 and len(set(map(type, value))) == 1
                ]
        return [layers for _, layers in stacks]

    def checkpoint_modules(self, every: int, part: CheckpointPart) -> tuple[list[nn.Module], list[nn.Module]]:
        """Choose what gradient checkpointing recomputes: in the language model, and outside of it.

        Args:
            every: Every k-th layer of a stack.
            part: Whole layers (of some families the part that can be), or their MLPs; of towers whose layers have
                no MLP of their own, whole layers.

        Raises:
            ModelError: There are no such layers, or they have no MLP of their own.
        """
        layers = self.layers
        check_every(layers, every)
        limited = self.family.parts.checkpointed_part
        if part == "layer" and limited is not None:
            found = [layer[limited] for layer in choose_modules(layers, every, "layer") if limited in layer]
        else:
            found = choose_modules(layers, every, part)
        if not found and part == "mlp":
            msg = (
                f"train.checkpoint_part: found 'mlp', but this family's layers ({type(layers[0]).__name__}) have no "
                "MLP that is a module of its own; use 'layer'"
            )
            raise ModelError(msg)
        tower = [
            module
            for stack in self.tower_layers
            for module in choose_modules(stack, every, part) or choose_modules(stack, every, "layer")
        ]
        return found, tower

    @property
    def is_traceable(self) -> bool:
        """Whether the language model's forward can be compiled."""
        return self.family.forward.eager is None

    def is_language(self, name: str) -> bool:
        """Whether a module or parameter belongs to the language model, by its qualified name."""
        return self.layout.is_language(name)

    def embed(self, batch: Batch) -> tuple[Tree, Tree]:
        """Make the language model's inputs of a batch.

        Returns:
            (features, others): floating-point arrays that gradients flow through, and positions and masks;
            leading dimensions B, T.

        Raises:
            BatchError: A row's image tokens do not match its image features.
        """
        n_rows, length = batch.tokens.shape
        with self.family.forward.embed_overrides(self.module):
            if self.family.forward.has_grid_tower:
                fields = self._grids().embed(batch)
            else:
                rows = [self._kept_row(example) for example in batch.rows]
                if batch.segments is not None:
                    rows = concat_inputs(rows, batch.spans)
                fields = collate_inputs(rows, n_rows, length)
        if batch.segments is not None:
            fields[SEGMENTS] = batch.segments
        return partition_inputs(fields)

    def embed_param_names(self) -> frozenset[str]:
        """Name the trainable parameters that `embed` uses: all outside the language model, and its embeddings.

        Found once: what is trainable is settled before the first step is made.
        """
        if self._embed_names is None:
            trainable = [name for name, _ in tree_flatten(self.module.trainable_parameters())]
            self._embed_names = frozenset(self._used_by_embed(trainable))
        return self._embed_names

    def feature_weights(self) -> Params:
        """Give the weights that decide what `keep_features` keeps: the tower's, or all that embedding uses."""
        params = dict(tree_flatten(self.module.parameters()))
        if self.family.forward.has_grid_tower:
            return {name: value for name, value in params.items() if name.startswith("vision_tower.")}
        return {name: params[name] for name in self._used_by_embed(params)}

    def why_features_change(self) -> str | None:
        """Say what is trained that features depend on, so that they cannot be kept; None if nothing is."""
        trained = self.embed_param_names()
        if any(not self.is_language(name) for name in trained):
            return "the vision tower or the connector is trained"
        if trained and not self.family.forward.has_grid_tower:
            return "the token embeddings are trained, and this family's features are kept together with them"
        return None

    def _used_by_embed(self, names: Iterable[str]) -> list[str]:
        def is_table(name: str, module: nn.Module) -> bool:
            # By name too: quantized tables, and those of some families, are of a class of their own.
            is_one = isinstance(module, nn.Embedding) or "Embedding" in type(module).__name__
            return is_one or name.endswith(self.family.parts.embedding_parts)

        modules = self.module.named_modules()
        parts = [name for name, module in modules if self.is_language(name) and is_table(name, module)]
        inside = tuple(f"{name}." for name in parts if name)
        return [name for name in names if not self.is_language(name) or name.startswith(inside)]

    def embed_vjp(self, batch: Batch, cotangents: Tree, checkpoint_modules: Sequence[nn.Module] = ()) -> Params:
        """Carry the gradients of `embed`'s features on to the parameters behind them.

        Args:
            batch: What was embedded.
            cotangents: The gradients of the features, as `embed` returns them.
            checkpoint_modules: Modules that keep no activations for it.
        """
        names = sorted(self.embed_param_names())
        trainable = dict(tree_flatten(self.module.trainable_parameters()))
        values = [trainable[name] for name in names]
        if self.family.forward.has_grid_tower:
            with self.family.forward.embed_overrides(self.module), checkpointed(checkpoint_modules):
                trained = dict(zip(names, values, strict=True))
                return self._grids().gradients(batch, trained, cotangents, is_recomputed=bool(checkpoint_modules))

        def outputs(*values: mx.array) -> list[mx.array]:
            with bound_params(self.module, dict(zip(names, values, strict=True))):
                features, _ = self.embed(batch)
            return leaves(features)

        with checkpointed(checkpoint_modules):
            _, gradients = mx.vjp(outputs, values, leaves(cotangents))
        return dict(zip(names, gradients, strict=True))

    def logits(self, tokens: mx.array, features: Tree, others: Tree, selected: mx.array) -> mx.array:
        """Run the language model on embedded rows, its head at the selected places; safe to trace.

        Args:
            tokens: i32[B, T].
            features: As `embed` returns them.
            others: As `embed` returns them.
            selected: i32[N], flat places b T + t.

        Returns:
            f[N, V]: the logits at those places, which predict the tokens after them.
        """
        fields, places = self._lined_up(tokens, features, others, selected)
        if self.head is None:
            logits = self._forward(tokens, fields)
            return logits.reshape(-1, logits.shape[-1])[places]
        with gather_before_head(self.module, self.head, places):
            logits = self._forward(tokens, fields)
        return logits.reshape(-1, logits.shape[-1])

    @property
    def has_separable_head(self) -> bool:
        """Whether `hidden` and `project` together are `logits`."""
        return self.head is not None and self.head.stack is not None

    def describe_head(self) -> str | None:
        """Say how the head runs, and why, where it does not run in chunks at the supervised tokens only."""
        if self.head is None:
            return "at all tokens, supervised or not: no module gives the model's own logits at selected ones"
        if self.head.stack is None:
            return (
                f"at all supervised tokens of a batch at once, not in chunks: what {self.head.name} takes is not what "
                "one module of layers gives"
            )
        return None

    def hidden(self, tokens: mx.array, features: Tree, others: Tree, selected: mx.array) -> mx.array:
        """Run the language model up to its head; safe to trace.

        Args:
            tokens: i32[B, T].
            features: As `embed` returns them.
            others: As `embed` returns them.
            selected: i32[N], flat places b T + t.

        Returns:
            f[N, D]: what the head takes at those places.
        """
        fields, places = self._lined_up(tokens, features, others, selected)
        found: list[mx.array] = []
        with capture_hidden(self.module, self._sound_head(), places, found):
            self._forward(tokens, fields)
        return found[0]

    def project(self, tokens: mx.array, features: Tree, others: Tree, hidden: mx.array) -> mx.array:
        """Run the head, and whatever the model does behind it, on some hidden states; safe to trace.

        Args:
            tokens: As for `hidden`, as are the next two; the layers that they would enter do not run.
            features: See above.
            others: See above.
            hidden: f[N, D].

        Returns:
            f[N, V].
        """
        fields, _ = self._lined_up(tokens, features, others, mx.array([0]))
        with run_head_only(self.module, self._sound_head(), hidden[None]):
            logits = self._forward(tokens, fields)
        return logits.reshape(-1, logits.shape[-1])

    def head_names(self) -> frozenset[str]:
        """Name the trainable parameters that `project` uses; found once, as those of `embed`."""
        if self._head_names is None:
            inside = f"{self._sound_head().name}."
            trainable = tree_flatten(self.module.trainable_parameters())
            self._head_names = frozenset(name for name, _ in trainable if name.startswith(inside))
        return self._head_names

    def all_logits(self, tokens: mx.array, features: Tree, others: Tree) -> mx.array:
        """Run the language model with its head at every place; i32[B, T] -> f[B, T, V]."""
        every = mx.arange(tokens.size)
        return self.logits(tokens, features, others, every).reshape(*tokens.shape, -1)

    def detect_head(self, *, is_verified: bool = True) -> None:
        """Find the head and check, on a few tokens without images, that it can be run at selected places.

        Without success `head` stays None, and the logits of all places are computed before some are selected.

        Args:
            is_verified: Whether logits are computed and compared; otherwise shapes are enough.
        """
        self.head = None
        tokens = np.arange(2, 2 + 2 * PROBE_TOKENS, dtype=np.int32).reshape(2, -1)
        blank = np.zeros(PROBE_TOKENS, dtype=np.bool_)
        examples = [Example(source="head", tokens=row, supervised=blank, placeholders=blank) for row in tokens]
        with self.family.forward.embed_overrides(self.module):
            fields = collate_inputs([self._embed_alone(example) for example in examples], 2, PROBE_TOKENS)
        fields.pop(LOGIT_PLACES, None)
        ids = mx.array(tokens)
        with self.overrides():
            self.head = find_head(
                self.module,
                lambda: self._forward(ids, dict(fields)),
                PROBE_TOKENS,
                is_verified=is_verified,
            )

    def vocabulary(self) -> Vocabulary:
        """Count the tokens that the model reads and writes, once."""
        if self._vocabulary is None:
            self._vocabulary = count_vocabulary(self.module, self.is_language, self.head)
        return self._vocabulary

    def keep_features(self, cache: FeatureCache | None) -> None:
        """Keep what the tower makes of images, for as long as nothing that it depends on is trained."""
        self._features = cache
        self._grid_tower = None

    def has_features(self, example: Example) -> bool:
        """Whether everything that the tower would make for a row is kept; safe to call from any thread."""
        cache = self._features
        if cache is None or self.why_features_change() is not None:
            return False
        keys = example.image_keys if self.family.forward.has_grid_tower else (row_key(example),)
        return bool(example.image_keys) and all(key in cache for key in keys)

    def prepare(self, example: Example, spell: Callable[[int], str] = str) -> Example:
        """Do ahead what embedding a row would wait for; safe to call from any thread.

        Features that are on disk only are read, and pixels are packed.

        Args:
            example: The row.
            spell: Names a token in an error.

        Raises:
            SampleError: The model has no row for one of its tokens, in its embedding table or its head.
        """
        self.vocabulary().check(example, spell)
        cache = self._features
        if cache is not None and self.has_features(example):
            cache.load(example.image_keys if self.family.forward.has_grid_tower else (row_key(example),))
            return example
        pixels = example.inputs.get("pixel_values") if self.family.forward.has_grid_tower else None
        if not isinstance(pixels, np.ndarray):
            return example
        packed = pixel_layout(self.module.vision_tower).pack(pixels)
        return attrs.evolve(example, inputs={**example.inputs, "pixel_values": packed})

    def prepare_batch(self, batch: Batch) -> Batch:
        """Do ahead what embedding a batch would wait for; safe to call from any thread.

        Raises:
            BatchError: A row's image tokens do not match its grids.
        """
        if not self.family.forward.has_grid_tower:
            return batch
        laid = self._grids().lay_out(batch)
        # Arrays that another thread is to take must not wait for this one's stream.
        mx.eval([own.inputs for own in laid.passes])
        return batch._replace(ahead=laid)

    def forget_traces(self) -> None:
        """Forget how the tower was traced; what was traced for a plan knows arrays that were never there."""
        self._grid_tower = None

    def overrides(self) -> AbstractContextManager[None]:
        """Correct the language model for as long as `logits` and its gradient run."""
        # The family's own corrections come last: where both replace a part, theirs holds.
        return chain(lambda _: running_fused(self.lean_parts), self.family.forward.train_overrides)(self.module)

    def _forward(self, tokens: mx.array, inputs: LMInputs) -> mx.array:
        return self.family.forward.forward(self.module, tokens, inputs)

    def _sound_head(self) -> Head:
        if self.head is None:
            msg = "the model's head cannot be run apart from its layers; use logits()"
            raise RuntimeError(msg)
        return self.head

    def _lined_up(
        self, tokens: mx.array, features: Tree, others: Tree, selected: mx.array
    ) -> tuple[LMInputs, mx.array]:
        """The language model's fields, and the selected places within the rows that it sees."""
        fields = {**features, **others}
        if "inputs_embeds" in fields:
            self.lean_parts.expect(fields["inputs_embeds"].dtype)
        if LOGIT_PLACES not in fields:
            return fields, selected
        # Images expand within the model: its rows are longer than the batch's.
        within = fields.pop(LOGIT_PLACES).reshape(-1)[selected]
        return fields, selected // tokens.shape[1] * fields["inputs_embeds"].shape[1] + within

    def _grids(self) -> GridTower:
        trained = self.embed_param_names()
        if self._grid_tower is None or self._grid_tower.trained != trained:
            self._grid_tower = GridTower(self.module, self.language_prefix, trained, self._features)
        return self._grid_tower

    def _kept_row(self, example: Example) -> LMInputs:
        """Find a row's fields, or embed it: without images, or with something trained in it, it is always embedded."""
        cache = self._features
        if cache is None or not example.image_keys or self.embed_param_names():
            return self._embed_row(example)
        key = row_key(example)
        found = cache.get(key, len(example.image_keys))
        if found is not None:
            tree: LMInputs = tree_unflatten(list(found.items()))
            return tree
        fields = self._embed_row(example)
        flat = dict(tree_flatten(fields))
        # Not where a field is no array, or an empty list, which a flat tree does not show.
        if (
            all(isinstance(value, mx.array) for value in flat.values())
            and fields.keys() == tree_unflatten(list(flat.items())).keys()
        ):
            cache.put({key: flat})
        return fields

    def _embed_row(self, example: Example) -> LMInputs:
        """Embed one row of data.

        Raises:
            BatchError: Its images cannot be placed, or it lacks one.
        """
        if self.family.format.is_encoder_decoder and not example.inputs:
            msg = f"{example.source}: the row has no image; this model reads one in every row"
            raise BatchError(msg)
        return self._embed_alone(example)

    def _embed_alone(self, example: Example) -> LMInputs:
        """Embed one row alone, without padding, as the model does when it generates."""
        forget_last_batch(self.module)
        forward = self.family.forward
        inputs = {name: to_device(value) for name, value in forward.fix_inputs(dict(example.inputs)).items()}
        # As it comes from the host, no view of it: families that read ids back do not wait for the device then.
        tokens = mx.array(example.tokens[None])
        try:
            fields = forward.embed(self.module, tokens, inputs)
            fields = forward.finish_inputs(self.module, tokens, inputs, {**fields, **forward.label_inputs(example)})
        except ValueError as error:
            msg = f"{example.source}: the model cannot place the row's images ({error})"
            raise BatchError(msg) from error
        forget_last_batch(self.module)
        fields = {name: value for name, value in fields.items() if name not in NOT_PASSED}
        if self.family.format.is_encoder_decoder:
            return fields
        n_embedded = fields["inputs_embeds"].shape[1]
        if n_embedded != len(example.tokens) and LOGIT_PLACES not in fields:
            msg = (
                f"{example.source}: {len(example.tokens)} tokens became {n_embedded} embeddings; "
                "vlora cannot tell which logit predicts which token in this family"
            )
            raise BatchError(msg)
        # A copy: some language models scale their input in place.
        fields["inputs_embeds"] = mx.array(fields["inputs_embeds"])
        return fields


def row_key(example: Example) -> str:
    """Make the key of a row's fields: its tokens, which of them are answers, its prompt, its images in their order."""
    prompt = np.asarray(example.inputs.get(PROMPT, ()))
    parts = [example.tokens.tobytes(), example.supervised.tobytes(), prompt.tobytes()]
    return digest([*parts, *(key.encode() for key in example.image_keys)])


def _stacks(module: nn.Module) -> list[list[nn.Module]]:
    """List the lists of modules among a module's children."""
    return [
        value
        for value in module.children().values()
        if isinstance(value, list) and value and all(isinstance(layer, nn.Module) for layer in value)
    ]


def find_layout(family: Family, language_prefix: str) -> ModelParts:
    """Say where the parts of a family's model lie."""
    return ModelParts(
        language=language_prefix,
        beside_language=family.parts.beside_language,
        no_adapter=family.parts.no_adapter,
        selectors=family.parts.selectors,
        without_experts=family.parts.without_experts,
    )


def forget_last_batch(module: nn.Module) -> None:
    """Clear what some families leave on the module for the next batch: positions and image features."""
    for owner, names in (
        (module.language_model, ("_position_ids", "_rope_deltas")),
        (module, ("_image_cache",)),
    ):
        for name in names:
            if getattr(owner, name, None) is not None:
                setattr(owner, name, None)


def to_device(value: Any) -> Any:
    """Turn host arrays into device arrays, lists of them included; leave the rest."""
    if isinstance(value, np.ndarray):
        return mx.array(value)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [mx.array(item) for item in value]
    return value
