"""What a run says of itself before its first step."""

from collections.abc import Sequence
from pathlib import Path

from mlx.utils import tree_flatten

from .. import models
from ..adapters.attached import lora_layers, summarize
from ..events import Started
from ..memory.limits import describe_device
from ..ops.parameters import count_parameters
from ..output import checkpoint
from ..output.paths import STATE_NAME, OutputPaths
from .context import RunContext


def describe_start(run: RunContext, first: int) -> Started:
    """Say what a run is about to do.

    Args:
        run: The run.
        first: Steps that were done before.
    """
    data, module = run.data, run.backbone.module
    return Started(
        device=describe_device(),
        model_type=data.files.model_type,
        n_rows=data.train.n_known,
        n_valid_rows=0 if data.valid is None else len(data.valid),
        held_out=() if data.valid is None else data.valid,
        n_steps=run.source.n_steps(first + 1),
        is_estimated=run.source.is_estimated,
        first_step=first,
        n_params=count_parameters(module),
        n_trainable=sum(value.size for _, value in tree_flatten(module.trainable_parameters())),
        adapted=tuple(summarize(name for name, _ in lora_layers(module))),
        columns=data.train.columns(),
        features=run.features.storage,
        template=data.encoder.template_use(),
        head=models.head_use(run.backbone.head),
        n_files=sum(len(stream.files) for stream in data.train.streams),
        n_devices=run.ranks.size,
        sources=data.train.shares(),
    )


def describe_earlier(paths: OutputPaths, earlier: Path) -> str:
    """Say where what stood in a run's folder is now, and how it goes on from there."""
    message = f"what an earlier run, or somebody else, has left in {paths.folder} is in {earlier} now"
    if checkpoint.has_state(earlier / STATE_NAME):
        output = earlier / paths.weights.name if paths.is_adapter else earlier
        message += f", and goes on from there with --resume --set output.path={output}"
    return message


def describe_added(tokens: Sequence[str]) -> str:
    """Name the tokens that a model got."""
    named = repr(tokens[0]) if len(tokens) == 1 else f"{tokens[0]!r} to {tokens[-1]!r} ({len(tokens):,} tokens)"
    return f"added to the model, from the mean of its tokens: {named}; all of its embeddings and its head are trained"
