"""The adapter, saved as a run saves it and attached again as a run that goes on attaches it."""

from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ... import models
from ...adapters.attached import adapter_state_dict, lora_layers
from ...data.collate import collate
from ...errors import CheckError, CheckpointError
from ...output.checkpoint import save_adapter
from ...output.paths import ADAPTER_NAME
from .subject import SAME_SHAPE, LeftOut, Subject, bounded, share_of


def check_adapter(subject: Subject, folder: Path) -> str | LeftOut:
    """Save the adapter, put the base's own layers in its place, attach the saved one: the logits are the same.

    The logits without it are others: nothing that adds nothing is saved.
    """
    if subject.is_full:
        return LeftOut("full fine-tuning saves a model, no adapter")
    backbone, batch, rows = subject.backbone, collate(subject.examples), range(len(subject.examples))
    expected = np.concatenate(subject.row_logits(batch, rows))
    file = folder / ADAPTER_NAME
    own = dict(tree_flatten(backbone.module.trainable_parameters()))
    typed = {name: value.astype(own[name].dtype) for name, value in subject.params.items()}
    save_adapter(file, adapter_state_dict(backbone.module, typed), subject.config)
    blank = {name: mx.zeros_like(value) if name.endswith("lora_b") else value for name, value in subject.params.items()}
    kept, subject.params = subject.params, blank
    without = np.concatenate(subject.row_logits(batch, rows))
    try:
        models.load_adapter(backbone, file, quantized=subject.quantized, is_strict=True)
    except CheckpointError as error:
        msg = f"the adapter that was saved cannot be attached again: {error}"
        raise CheckError(msg) from None
    subject.params = {}
    found = np.concatenate(subject.row_logits(batch, rows))
    subject.params = kept
    problem = (
        "logits {found} once the adapter is saved and attached again: what is trained is not what is saved; report it, "
        "with the model's name"
    )
    share = bounded(share_of(found, expected), SAME_SHAPE[subject.precision], problem)
    if not share_of(without, expected) > SAME_SHAPE[subject.precision]:
        msg = "the adapter adds nothing to the logits; give other lora.targets"
        raise CheckError(msg)
    n_layers = sum(1 for _ in lora_layers(backbone.module))
    return f"{n_layers} layers, {file.stat().st_size / 1e6:.2f} MB; logits off by {share:.1e}"
