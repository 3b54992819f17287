"""An mlx-vlm model as the `Backbone` that the training step needs.

mlx-vlm's own batch path gives images to the wrong row in some families, keeps positions on the module between
batches in others, and cannot be traced. So the two halves run separately: rows are embedded first (`Embedder`), with
values read on the host; then the language model, which is run here, gets dense arrays by keyword, no 2-D mask (which
would replace the causal one) and no cache.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_vlm.models.rope_utils import SuScaledRoPE

from ...ops.buckets import SMALLEST_BUCKET
from ...output.base_identity import BaseIdentity
from ...train.backbone import Params
from ...train.grad_checkpoint import CheckpointPart
from ...types import Batch, Example, Tree
from ..forward.calls import call_language_model
from ..forward.joined import (
    JOINED,
    SOURCES,
    can_join,
    choose_joined,
    join_inputs,
    most_places,
    part_gradients,
    plan_joined,
    with_positions,
)
from ..forward.lm_inputs import LMInputs, leaves, place_logits
from ..forward.overrides import chain
from ..forward.segments import attending_apart, count_causal, place_apart
from .embed import forget_last_batch, probe_inputs
from .embedder import Embedder
from .fused import FusedModules, running_fused
from .head import Head, capture_hidden, find_module, gather_before_head, run_head_only, sound_head
from .head_search import find_head
from .parts import choose_language, choose_towers, language_layers
from .vocabulary import Vocabulary, count_vocabulary


@attrs.define(eq=False)
class MlxVlmBackbone(Embedder):
    """A loaded model with its family's description; implements `vlora.train.backbone.Backbone`.

    Attributes:
        head: The head, if it can be run at given positions; see `detect_head`.
        fused_modules: Parts of the language model that have a fused forward; see `find_fused_modules`.
        base: Which model it is; None where it was not loaded from files.
        base_note: A line that names the base of the adapter that was loaded, if it may be another one.
    """

    head: Head | None = attrs.field(default=None, init=False)
    fused_modules: FusedModules = attrs.field(factory=FusedModules, init=False)
    base: BaseIdentity | None = attrs.field(default=None, init=False)
    base_note: str | None = attrs.field(default=None, init=False)
    _head_names: frozenset[str] | None = attrs.field(default=None, init=False)
    _is_causal: bool | None = attrs.field(default=None, init=False)
    _most_joined: int | None = attrs.field(default=None, init=False)
    _vocabulary: Vocabulary | None = attrs.field(default=None, init=False)

    @property
    def language_model(self) -> nn.Module:
        """The language model, its head included."""
        return find_module(self.module, self.language_prefix)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The language model's layers."""
        return language_layers(self.module, self.layout)

    def checkpoint_modules(self, every: int, part: CheckpointPart) -> tuple[list[nn.Module], list[nn.Module]]:
        """Choose what gradient checkpointing recomputes: in the language model, and outside of it.

        Args:
            every: Every k-th layer of a stack.
            part: Whole layers (of some families the part that can be), or their MLPs; of towers whose layers have
                no MLP of their own, whole layers.

        Raises:
            ModelError: There are no such layers, or they have no MLP of their own.
        """
        limited = self.family.parts.checkpointed_part
        language = choose_language(self.layers, every, part, limited)
        others = self.shards.others(language) if self.shards else language
        return others, choose_towers(self.tower_layers, every, part)

    @property
    def gathers(self) -> bool:
        """Whether ranks have divided its frozen weights."""
        return self.shards is not None

    @property
    def is_traceable(self) -> bool:
        """Whether the language model's forward can be compiled."""
        return self.family.forward.eager is None

    @property
    def is_causal(self) -> bool:
        """Whether all attention of the language model is causal over whole rows; found once, by running none of it."""
        if self._is_causal is None:
            ids, inputs = probe_inputs(self.module, self.family)
            with self.family.forward.train_overrides(self.module):
                n_calls = count_causal(self.language_model, lambda: self.run(ids, dict(inputs)), ids.shape[1])
            # Some models keep positions of the rows that they ran last.
            forget_last_batch(self.module)
            self._is_causal = self.family.forward.forward is call_language_model and n_calls == len(self.layers)
        return self._is_causal

    @property
    def joins(self) -> bool:
        """Whether rows of a batch may share one: all attention is causal, and nothing else mixes places; found once.

        Parts of the model are replaced meanwhile: it is asked for the first time where no other thread uses the model.
        """
        if self._most_joined is None:
            may_share = self.family.forward.packs and self.is_causal
            self._most_joined = self._count_most() if may_share else 0
        return self._most_joined > 0

    def _count_most(self) -> int:
        """Count the places that a joined row may have at most; 0 if rows cannot be joined."""
        ids, fields = probe_inputs(self.module, self.family)
        fields = with_positions(fields, self.language_model, ids.shape)
        if not can_join(fields, self.family.forward.layouts):
            return 0
        return most_places(fields, self.farthest_position())

    def farthest_position(self) -> int:
        """Find the first position that the language model treats otherwise, by the row's length or in steps."""
        with self.overrides():
            # A subclass where a correction lets each example have its own length.
            ropes = [part for part in self.module.modules() if type(part) is SuScaledRoPE]
        limits = [int(rope.original_max_position_embeddings) for rope in ropes]
        scaling = getattr(getattr(self.language_model, "config", None), "rope_parameters", None) or {}
        if scaling.get("llama_4_scaling_beta"):
            limits.append(int(scaling["original_max_position_embeddings"]))
        return min(limits, default=sys.maxsize)

    def length_multiple(self, counts: Sequence[int], n_rows: int) -> int:
        """Say what the length of padded rows should be a multiple of, so that few shapes are traced.

        Args:
            counts: Tokens of each example.
            n_rows: Rows of the batch.
        """
        chosen = self._choose_joined(counts, n_rows)
        return SMALLEST_BUCKET if chosen is None else chosen[0]

    def _choose_joined(self, counts: Sequence[int], n_rows: int) -> tuple[int, int] | None:
        chosen = choose_joined(counts, n_rows) if self.joins else None
        return chosen if chosen is not None and chosen[1] <= (self._most_joined or 0) else None

    def embed(self, batch: Batch) -> tuple[Tree, Tree]:
        """Make the language model's inputs of a batch, and say where its examples are if they share rows.

        Returns:
            As `Embedder.embed_rows`; where rows are joined, the leading dimensions are 1, N.

        Raises:
            BatchError: A row's image tokens do not match its image features.
        """
        differentiable, auxiliary = self.embed_rows(batch)
        if batch.segment_ids is not None:
            places = place_apart(batch.spans, *batch.tokens.shape) if self.is_causal else {}
            return differentiable, {**auxiliary, **places}
        plan, layouts = self._plan_joined(batch), self.family.forward.layouts
        placed = with_positions(auxiliary, self.language_model, batch.tokens.shape)
        if plan is None or not can_join({**differentiable, **placed}, layouts):
            return differentiable, auxiliary
        return join_inputs(differentiable, plan, layouts), {**join_inputs(placed, plan, layouts), **plan}

    def embed_vjp(self, batch: Batch, cotangents: Tree, checkpoint_modules: Sequence[nn.Module] = ()) -> Params:
        """Compute the gradients of the parameters behind `embed`, as `Embedder.embed_vjp` does of rows apart."""
        plan = self._plan_joined(batch)
        if plan is not None and leaves(cotangents)[0].shape[:2] != batch.tokens.shape:
            cotangents = part_gradients(cotangents, plan, self.family.forward.layouts, batch.tokens.shape)
        return super().embed_vjp(batch, cotangents, checkpoint_modules)

    def count_places(self, batch: Batch) -> int:
        """Count the places at which the language model runs."""
        n_joined = self._count_joined(batch)
        return batch.tokens.size if n_joined is None else n_joined

    def _plan_joined(self, batch: Batch) -> LMInputs | None:
        n_joined = self._count_joined(batch)
        return None if n_joined is None else plan_joined(batch.spans, batch.tokens.shape, n_joined)

    def _count_joined(self, batch: Batch) -> int | None:
        """Count the places of the row to which a batch's are joined; None where they cannot be, or need not."""
        if batch.segment_ids is not None:
            return None
        chosen = self._choose_joined([len(example.tokens) for example in batch.rows], batch.tokens.shape[0])
        return None if chosen is None else chosen[1]

    def logits(self, tokens: mx.array, differentiable: Tree, auxiliary: Tree, positions: mx.array) -> mx.array:
        """Run the language model on embedded rows, its head at the given positions; safe to trace.

        Args:
            tokens: i32[B, T].
            differentiable: As `embed` returns them.
            auxiliary: As `embed` returns them.
            positions: i32[N], flat places b T + t.

        Returns:
            f[N, V]: the logits at those places, which predict the tokens after them.
        """
        tokens, fields, places = self._lined_up(tokens, differentiable, auxiliary, positions)
        if self.head is None:
            logits = self.run(tokens, fields)
            return logits.reshape(-1, logits.shape[-1])[places]
        with gather_before_head(self.module, self.head, places):
            logits = self.run(tokens, fields)
        return logits.reshape(-1, logits.shape[-1])

    @property
    def has_separable_head(self) -> bool:
        """Whether `hidden` and `project` together are `logits`."""
        return self.head is not None and self.head.stack is not None

    def hidden(self, tokens: mx.array, differentiable: Tree, auxiliary: Tree, positions: mx.array) -> mx.array:
        """Run the language model up to its head; safe to trace.

        Args:
            tokens: i32[B, T].
            differentiable: As `embed` returns them.
            auxiliary: As `embed` returns them.
            positions: i32[N], flat places b T + t.

        Returns:
            f[N, D]: what the head takes at those places.
        """
        tokens, fields, places = self._lined_up(tokens, differentiable, auxiliary, positions)
        found: list[mx.array] = []
        with capture_hidden(self.module, sound_head(self.head), places, found):
            self.run(tokens, fields)
        return found[0]

    def project(self, tokens: mx.array, differentiable: Tree, auxiliary: Tree, hidden: mx.array) -> mx.array:
        """Run the head, and what the model does behind it, on some hidden states; safe to trace.

        Args:
            tokens: As for `hidden`, as are the next two; the layers that they would enter do not run.
            differentiable: See above.
            auxiliary: See above.
            hidden: f[N, D].

        Returns:
            f[N, V].
        """
        tokens, fields, _ = self._lined_up(tokens, differentiable, auxiliary, mx.array([0]))
        with run_head_only(self.module, sound_head(self.head), hidden[None]):
            logits = self.run(tokens, fields)
        return logits.reshape(-1, logits.shape[-1])

    def head_names(self) -> frozenset[str]:
        """Name the trainable parameters that `project` uses; found once, as those of `embed`."""
        if self._head_names is None:
            inside, trainable = f"{sound_head(self.head).name}.", tree_flatten(self.module.trainable_parameters())
            self._head_names = frozenset(name for name, _ in trainable if name.startswith(inside))
        return self._head_names

    def all_logits(self, tokens: mx.array, differentiable: Tree, auxiliary: Tree) -> mx.array:
        """Run the language model with its head at every place; i32[B, T] -> f[B, T, V]."""
        every = mx.arange(tokens.size)
        return self.logits(tokens, differentiable, auxiliary, every).reshape(*tokens.shape, -1)

    def detect_head(self, *, is_verified: bool = True) -> None:
        """Find the head and check, on a few tokens without images, that it can be run at given positions.

        Without success `head` stays None, and the logits of all places are computed before some are selected.

        Args:
            is_verified: Whether logits are computed and compared; otherwise shapes are enough.
        """
        self.head = None
        ids, inputs = probe_inputs(self.module, self.family)
        with self.overrides():
            self.head = find_head(
                self.module, lambda: self.run(ids, dict(inputs)), ids.shape[1], is_verified=is_verified
            )

    def vocabulary(self) -> Vocabulary:
        """Count the tokens that the model can read and write, once."""
        if self._vocabulary is None:
            self._vocabulary = count_vocabulary(self.module, self.is_language, self.head)
        return self._vocabulary

    def prepare(self, example: Example, spell: Callable[[int], str] = str) -> Example:
        """Prepare the embedding of a row in advance; safe to call from any thread.

        Kept features are read from disk, and pixels are packed.

        Args:
            example: The row.
            spell: Names a token in an error.

        Raises:
            SampleError: The model has no row for one of its tokens, in its embedding table or its head.
        """
        self.vocabulary().check(example, spell)
        return self.read_ahead(example)

    def forget_traces(self) -> None:
        """Drop the tower's traces, which hold arrays without data or other layers, and names of what is trained."""
        super().forget_traces()
        self._head_names = None

    def overrides(self) -> AbstractContextManager[None]:
        """Apply the corrections of the language model while `logits` and its gradient run."""
        # The family's corrections come last: they win where both replace a part.
        corrections = [lambda _: running_fused(self.fused_modules), self.family.forward.train_overrides]
        sharing = [] if self.shards is None else [self.shards.running]
        return chain(*corrections, lambda _: attending_apart(self.language_model), *sharing)(self.module)

    def run(self, tokens: mx.array, inputs: LMInputs) -> mx.array:
        """Run the language model on inputs of its family; i32[B, T] -> f[B, T, V]."""
        return self.family.forward.forward(self.module, tokens, inputs)

    def _lined_up(
        self, tokens: mx.array, differentiable: Tree, auxiliary: Tree, positions: mx.array
    ) -> tuple[mx.array, LMInputs, mx.array]:
        """What the language model sees: tokens, other inputs, and the given positions within its rows."""
        fields = {**differentiable, **auxiliary}
        if "inputs_embeds" in fields:
            self.fused_modules.expect(fields["inputs_embeds"].dtype)
        if JOINED in fields:
            places, sources = fields.pop(JOINED), fields.pop(SOURCES)
            return tokens.reshape(-1)[sources][None], fields, mx.maximum(places, 0)[positions]
        return tokens, *place_logits(fields, positions, tokens.shape[1])
