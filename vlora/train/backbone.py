"""What training needs of a model. Pure."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from ..types import Batch, Tree
from .grad_checkpoint import CheckpointPart

Params = dict[str, mx.array]
"""Qualified names to arrays."""


class Backbone(Protocol):
    """What the step needs of a model; `vlora.models` makes one of an mlx-vlm model."""

    @property
    def module(self) -> nn.Module:
        """The model, trainable parts unfrozen."""

    def checkpoint_modules(self, every: int, part: CheckpointPart) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        """Name what runs again under gradient checkpointing: in the language model, and on the embedding side."""

    def embed(self, batch: Batch) -> tuple[Tree, Tree]:
        """Make the language model's inputs: (differentiable, auxiliary), each name to array."""

    def count_places(self, batch: Batch) -> int:
        """Count the places at which the language model runs, padding included."""

    def embed_param_names(self) -> frozenset[str]:
        """Name the trainable parameters that `embed` uses."""

    def embed_vjp(self, batch: Batch, cotangents: Tree, checkpoint_modules: Sequence[nn.Module] = ()) -> Params:
        """Carry the gradients of `embed`'s outputs on to `embed_param_names`, with some modules checkpointed."""

    def logits(self, tokens: mx.array, differentiable: Tree, auxiliary: Tree, positions: mx.array) -> mx.array:
        """Run the language model, its head at the given positions; safe to trace. i32[B, T], i32[N] -> f[N, V]."""

    @property
    def has_separable_head(self) -> bool:
        """Whether `hidden` and `project` together are `logits`."""

    def hidden(self, tokens: mx.array, differentiable: Tree, auxiliary: Tree, positions: mx.array) -> mx.array:
        """Run the language model up to its head; safe to trace. i32[B, T], i32[N] -> f[N, D]."""

    def project(self, tokens: mx.array, differentiable: Tree, auxiliary: Tree, hidden: mx.array) -> mx.array:
        """Run the head on what `hidden` gave for the same inputs; safe to trace. f[N, D] -> f[N, V]."""

    def head_names(self) -> frozenset[str]:
        """Name the trainable parameters that `project` uses."""

    @property
    def gathers(self) -> bool:
        """Whether ranks have divided the frozen weights, and gather them where they are used."""

    @property
    def is_traceable(self) -> bool:
        """Whether `logits` can be compiled."""

    def overrides(self) -> AbstractContextManager[None]:
        """Correct the model for as long as `logits` and its gradient run."""
