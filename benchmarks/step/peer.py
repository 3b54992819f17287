"""The step of mlx-vlm's trainer on the rows of a recipe."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_vlm.trainer.common.utils import apply_gradient_step, enable_model_gradient_checkpointing
from mlx_vlm.trainer.peft import get_peft_model, load_adapters, unfreeze_modules
from mlx_vlm.trainer.vlm.config import VLMTrainingArgs
from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, vlm_sft_loss

from vlora import Batch, Recipe, VloraError, make_optimizer, models
from vlora.build import Data
from vlora.models.backbone.embed import to_device
from vlora.train.schedules import count_steps, learning_rate_at

from .batches import Microbatches
from .ours import count_trainable


class PeerError(RuntimeError):
    """mlx-vlm cannot take this recipe's step."""


class PeerStep:
    """The step of mlx-vlm's trainer: eager, its own collation, loss, adapter layers and update.

    Model, quantization, rows, supervised tokens, adapted layers, trained parts, optimizer and
    learning rates are the recipe's. What its trainer has no option for stays as it is there;
    `notes` says so.

    Attributes:
        notes: What it does otherwise than the recipe says.
    """

    n_traces = 0

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        prepared: Sequence[Microbatches],
        adapter: Mapping[str, Any],
    ) -> None:
        """Load the model once more, and make it trainable mlx-vlm's way.

        Args:
            recipe: The recipe.
            data: Its opened rows.
            prepared: The batches of each step.
            adapter: The adapter's configuration, as `load_model` returned it.

        Raises:
            PeerError: mlx-vlm cannot do it.
        """
        self.notes: list[str] = []
        with as_peer_error():
            self._module = load_peer(recipe, data, adapter)
            self._optimizer = self._make_optimizer(recipe)
            self._batches = [[collate_peer(batch, recipe, data) for batch in batches] for batches in prepared]
            mx.eval(self._batches)
            # It takes the mean of the microbatches' means, whatever they supervise.
            if recipe.train.gradient_accumulation_steps > 1:
                self.notes.append("weighs microbatches alike")
            objective = partial(vlm_sft_loss, train_on_completions=True)
            self._value_and_grad = nn.value_and_grad(self._module, objective)
            self._module.train()
        self._checkpoints = recipe.train.grad_checkpoint
        self._rate = partial(learning_rate_at, n_steps=count_steps(recipe.train, len(data.train)), optim=recipe.optim)
        self._n_done = 0
        self.n_trainable = count_trainable(self._module)

    def __call__(self, number: int) -> None:
        """Take a step.

        Raises:
            PeerError: It fails; mlx-vlm cannot batch every family's rows.
        """
        self._n_done += 1
        self._optimizer.learning_rate = self._rate(self._n_done)
        batches = self._batches[number]
        gradients = None
        self._sums = []
        with as_peer_error():
            for index, batch in enumerate(batches, start=1):
                loss, metrics, gradients = apply_gradient_step(
                    self._module,
                    self._optimizer,
                    self._value_and_grad,
                    batch,
                    gradients,
                    update=index == len(batches),
                    accumulation_steps=len(batches),
                )
                # What its loop waits for, after every microbatch.
                state = [self._module.state, self._optimizer.state, mx.random.state]
                mx.eval(state, loss, metrics, gradients)
                self._sums.append((loss, metrics["weight"]))
            mx.synchronize()

    def sums(self) -> tuple[float, float]:
        """Return the last step's sums; its losses are means over a microbatch."""
        nll = sum(float(loss) * float(weight) for loss, weight in self._sums)
        return nll, sum(float(weight) for _, weight in self._sums)

    def turn(self) -> AbstractContextManager[None]:
        """Checkpoint layers if the recipe says so."""
        return checkpointed_classes(self._module) if self._checkpoints else nullcontext()

    def _make_optimizer(self, recipe: Recipe) -> optim.Optimizer:
        optimizer = make_optimizer(recipe.optim)
        if isinstance(optimizer, optim.Adam):
            # mlx-vlm leaves MLX's default.
            optimizer.bias_correction = False
            self.notes.append("does not correct Adam's bias")
        if recipe.optim.grad_clip is not None:
            self.notes.append("does not clip gradients")
        optimizer.init(self._module.trainable_parameters())
        return optimizer


def load_peer(recipe: Recipe, data: Data, adapter: Mapping[str, Any]) -> nn.Module:
    """Load the recipe's model afresh and make trainable what the recipe trains, mlx-vlm's way."""
    mx.random.seed(recipe.train.seed)
    backbone, _ = models.load_backbone(data.files, recipe.model)
    module, language = backbone.module, backbone.language_prefix
    if recipe.model.full_finetune:
        unfreeze_modules(module, [language])
    elif recipe.model.adapter_path is not None:
        load_adapters(module, Path(recipe.model.adapter_path).expanduser())
    else:
        settings = adapter["lora_parameters"]
        get_peft_model(
            module,
            settings["keys"],
            rank=settings["rank"],
            alpha=settings["scale"] * settings["rank"],
            dropout=settings["dropout"],
            verbose=False,
        )
    if recipe.model.train_vision:
        children = module.children().items()
        names = [name for name, child in children if isinstance(child, nn.Module)]
        unfreeze_modules(module, [name for name in names if not language.startswith(name)])
    return module


def collate_peer(batch: Batch, recipe: Recipe, data: Data) -> dict[str, Any]:
    """Put a batch's rows together as mlx-vlm's trainer does, to the padding of its defaults."""
    tokenizer = data.encoder.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    samples = [
        {
            # Device arrays, as its own dataset gives: host arrays lose a dimension too many.
            **{name: to_device(value) for name, value in row.inputs.items()},
            "input_ids": row.tokens,
            "attention_mask": [1] * len(row.tokens),
            "completion_mask": row.supervised,
        }
        for row in batch.rows
    ]
    collated: dict[str, Any] = collate_vlm_batch(
        samples,
        recipe.data.max_seq_length,
        pad_to_multiple=VLMTrainingArgs().pad_to_multiple,
        pad_token_id=0 if pad is None else int(pad),
        image_token_id=data.encoder.image_id,
    )
    return collated


@contextmanager
def as_peer_error() -> Iterator[None]:
    """Turn whatever mlx-vlm raises into a reason; it concerns no other measurement."""
    try:
        yield
    except Exception as error:  # models raise anything for rows they cannot batch
        raise PeerError(describe(error)) from error


@contextmanager
def checkpointed_classes(module: nn.Module) -> Iterator[None]:
    """Let mlx-vlm checkpoint layers for a while: it patches classes, which both models share."""
    own = {type(child): vars(type(child)).get("__call__") for _, child in module.named_modules()}
    try:
        enable_model_gradient_checkpointing(module)
        yield
    finally:
        for cls, call in own.items():
            if call is not None:
                cls.__call__ = call
            elif "__call__" in vars(cls):
                del cls.__call__


def describe(error: Exception) -> str:
    """Say on one line what went wrong, with the error's kind where vlora did not write it."""
    text = " ".join(str(error).split())
    if isinstance(error, (VloraError, FloatingPointError)):
        return text
    return f"{type(error).__name__}: {text}"
