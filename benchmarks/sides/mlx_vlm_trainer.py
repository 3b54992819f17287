"""mlx-vlm's own step: its loader, adapters, loss and update, in the order of its engine (trainer/common/engine.py)."""

import functools
from pathlib import Path
from typing import Any

import vlora  # noqa: F401 - before mlx: this side too is given the fast BLAS

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_vlm.trainer.common.utils import apply_gradient_step
from mlx_vlm.trainer.peft import get_peft_model
from mlx_vlm.trainer.vlm.sft.runtime import vlm_sft_loss
from mlx_vlm.utils import load_model

from ..cases import LEARNING_RATE, RANK, TARGETS, Case
from ..clock import Clock
from ..shapes import SHAPES, Row, Work
from .arrays import count_bytes, floating_type


class MlxVlmTrainer:
    """Implements `Side`."""

    def __init__(self, case: Case, folder: Path) -> None:
        """Open the model and put the batches onto the device.

        Raises:
            ValueError: The case asks for what its trainer does not have.
        """
        if case.cached or case.recomputed:
            msg = f"{case.name}: mlx-vlm's trainer is measured without kept features and without checkpointing"
            raise ValueError(msg)
        self._model = load_model(folder)
        self.weights_bytes = count_bytes(self._model.parameters())
        get_peft_model(self._model, list(TARGETS), rank=RANK, alpha=2 * RANK, dropout=0.0, verbose=False)
        self._model.train()
        trainable = self._model.trainable_parameters()
        self.n_trainable = sum(value.size for _, value in tree_flatten(trainable))
        self._optimizer = optim.AdamW(LEARNING_RATE)
        self._optimizer.init(trainable)
        self._batches = [stack_rows(rows, case.work) for rows in case.work.batches(SHAPES[case.shape])]
        mx.eval(self._batches)
        self._gradients = nn.value_and_grad(self._model, functools.partial(vlm_sft_loss, train_on_completions=True))
        self._n_done = 0

    def take(self, n_steps: int) -> float:
        """Take steps, evaluated one by one as its engine does."""
        state = [self._model.state, self._optimizer.state, mx.random.state]
        for _ in range(n_steps):
            batch = self._batches[self._n_done % len(self._batches)]
            self._n_done += 1
            loss, metrics, gradients = apply_gradient_step(
                self._model, self._optimizer, self._gradients, batch, None, update=True, accumulation_steps=1
            )
            mx.eval(state, loss, metrics, gradients)
        mx.synchronize()
        return float(loss)

    def reset_peak(self) -> None:
        """Forget the peak."""
        mx.reset_peak_memory()

    def peak_bytes(self) -> int:
        """Tell the peak."""
        return int(mx.get_peak_memory())


def stack_rows(rows: list[Row], work: Work) -> dict[str, Any]:
    """Put rows together as mlx-vlm's trainer takes them; all have one length, nothing is padded."""
    tokens = np.stack([row.tokens for row in rows])
    completion = np.zeros_like(tokens)
    completion[:, -work.answer :] = 1
    return {
        "input_ids": mx.array(tokens),
        "attention_mask": mx.ones(tokens.shape, dtype=mx.int32),
        "completion_mask": mx.array(completion),
        "pixel_values": mx.array(np.concatenate([row.patches for row in rows])).astype(floating_type()),
        "image_grid_thw": mx.array([[1, work.side, work.side]] * work.rows),
    }


def open_side(case: Case, folder: Path) -> Clock:
    """Open the side with its clock."""
    return Clock(MlxVlmTrainer(case, folder))
