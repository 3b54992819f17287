"""The step as `fit` takes it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from vlora import Recipe, init_state, load_model, make_optimizer, models, unbind
from vlora.build import Data, make_recipe_step
from vlora.train.schedules import count_steps, learning_rate_at

from .batches import Microbatches


class Step(Protocol):
    """One side of the comparison: takes real optimizer steps over batches prepared before."""

    @property
    def n_traces(self) -> int:
        """Count the shapes traced so far."""

    @property
    def n_trainable(self) -> int:
        """Count the trainable parameters."""

    def __call__(self, number: int) -> None:
        """Take a step over the batches of this number, and wait for the device."""

    def sums(self) -> tuple[float, float]:
        """Return the last step's (summed loss in nats, supervised tokens)."""

    def turn(self) -> AbstractContextManager[None]:
        """Say what has to hold while this side takes its steps."""


class VloraStep:
    """The step as `fit` takes it."""

    def __init__(self, recipe: Recipe, data: Data, prepared: Sequence[Microbatches]) -> None:
        """Open the model.

        Raises:
            VloraError: The model cannot be opened, or not be trained.
        """
        self._backbone, self.adapter = load_model(recipe, data.files)
        if not data.files.family.is_proven:
            rows = [row for batches in prepared for batch in batches for row in batch.rows]
            rows.sort(key=lambda row: len(row.tokens))
            # The shortest, the longest and one between, as `fit` takes them.
            places = sorted({0, len(rows) // 2, len(rows) - 1})
            models.check_family(self._backbone, [rows[place] for place in places], data.files.model_type)
        optimizer = make_optimizer(recipe.optim)
        self._state = init_state(self._backbone, optimizer)
        unbind(self._backbone)
        self._train_step = make_recipe_step(recipe, self._backbone, optimizer, self._state)
        self._prepared = prepared
        self._rate = partial(learning_rate_at, n_steps=count_steps(recipe.train, len(data.train)), optim=recipe.optim)
        self._n_done = 0
        self.n_trainable = count_trainable(self._backbone.module)

    @property
    def n_traces(self) -> int:
        """Count the shapes traced so far."""
        return self._train_step.n_traces

    def __call__(self, number: int) -> None:
        """Take a step."""
        self._n_done += 1
        self._state, self._output = self._train_step(self._state, self._prepared[number], self._rate(self._n_done))
        mx.eval(self._state, self._output)
        mx.synchronize()

    def sums(self) -> tuple[float, float]:
        """Return the last step's sums."""
        return float(self._output.nll_sum), float(self._output.n_supervised)

    def turn(self) -> AbstractContextManager[None]:
        """Need nothing."""
        return nullcontext()


def count_trainable(module: nn.Module) -> int:
    """Count a model's trainable parameters."""
    return sum(int(value.size) for _, value in tree_flatten(module.trainable_parameters()))
