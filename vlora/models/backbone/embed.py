"""Embeds one row alone, without padding, as the model does when it generates."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ...adapters.model_parts import ModelParts
from ...errors import BatchError
from ...features.cache import FeatureCache
from ...system.digests import digest
from ...train.backbone import Params
from ...train.state import bound_params
from ...types import Example, Tree
from ..families.family import Family
from ..forward.calls import NOT_PASSED
from ..forward.collating import collate_inputs
from ..forward.lm_inputs import LOGIT_PLACES, PROMPT, LMInputs, leaves
from .shared_images import SharedTowers

PROBE_TOKENS = 6


def kept_rows(
    module: nn.Module,
    family: Family,
    parts: ModelParts,
    rows: Sequence[Example],
    cache: FeatureCache | None,
    shared: SharedTowers,
) -> list[LMInputs]:
    """Give the inputs of each row as `kept_row` does; images that several rows show are looked at once."""

    def is_kept(row: Example) -> bool:
        return cache is not None and bool(row.image_keys) and row_key(row) in cache

    return shared.embed_rows(module, parts, rows, lambda row: kept_row(module, family, row, cache), is_kept)


def kept_row(module: nn.Module, family: Family, example: Example, cache: FeatureCache | None) -> LMInputs:
    """Return a row's kept inputs, or embed it and keep them; rows without images are always embedded.

    Args:
        module: The model.
        family: Its family.
        example: The row.
        cache: Keeps inputs; None to keep nothing.

    Raises:
        BatchError: As for `embed_row`.
    """
    if cache is None or not example.image_keys:
        return embed_row(module, family, example)
    key = row_key(example)
    found = cache.get(key, len(example.image_keys))
    if found is not None:
        tree: LMInputs = tree_unflatten(list(found.items()))
        return tree
    fields = embed_row(module, family, example)
    flat = dict(tree_flatten(fields))
    # Not if a field is not an array, or is an empty list, which a flat tree does not show.
    if (
        all(isinstance(value, mx.array) for value in flat.values())
        and fields.keys() == tree_unflatten(list(flat.items())).keys()
    ):
        cache.put({key: flat})
    return fields


def probe_inputs(module: nn.Module, family: Family) -> tuple[mx.array, LMInputs]:
    """Make two short rows without images, i32[2, T], and the language model's inputs of them."""
    tokens = np.arange(2, 2 + 2 * PROBE_TOKENS, dtype=np.int32).reshape(2, -1)
    blank = np.zeros(PROBE_TOKENS, dtype=np.bool_)
    examples = [Example(source="head", tokens=row, supervised=blank, placeholders=blank) for row in tokens]
    with family.forward.embed_overrides(module):
        rows = [embed_alone(module, family, example) for example in examples]
        inputs = collate_inputs(rows, len(rows), PROBE_TOKENS, family.forward.layouts, family.forward.stack_inputs)
    inputs.pop(LOGIT_PLACES, None)
    return mx.array(tokens), inputs


def embed_row(module: nn.Module, family: Family, example: Example) -> LMInputs:
    """Embed one row of data.

    Args:
        module: The model.
        family: Its family.
        example: The row.

    Returns:
        The language model's inputs, leading dimension 1.

    Raises:
        BatchError: Its images cannot be placed, or it lacks one.
    """
    if family.format.is_encoder_decoder and not example.inputs:
        msg = f"{example.source}: the row has no image; this model reads one in every row"
        raise BatchError(msg)
    return embed_alone(module, family, example)


def embed_alone(module: nn.Module, family: Family, example: Example) -> LMInputs:
    """Embed one row, which need not be a row of data: those of encoder-decoders may lack an image.

    Args:
        module: The model.
        family: Its family.
        example: The row.

    Returns:
        The language model's inputs, leading dimension 1.

    Raises:
        BatchError: Its images cannot be placed.
    """
    forget_last_batch(module)
    forward = family.forward
    inputs = {name: to_device(value) for name, value in forward.fix_inputs(dict(example.inputs)).items()}
    # From the host, not a view: families that read ids back then do not wait for the device.
    tokens = mx.array(example.tokens[None])
    try:
        fields = forward.embed(module, tokens, inputs)
        fields = forward.finish_inputs(module, tokens, inputs, {**fields, **forward.label_inputs(example)})
    except ValueError as error:
        msg = f"{example.source}: the model cannot place the row's images ({error})"
        raise BatchError(msg) from error
    forget_last_batch(module)
    fields = {name: value for name, value in fields.items() if name not in NOT_PASSED}
    if family.format.is_encoder_decoder:
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


def pull_embedding(module: nn.Module, embed: Callable[[], Tree], params: Params, cotangents: Tree) -> Params:
    """Compute the gradients of parameters behind an embedding from those of what it makes.

    Args:
        module: The model.
        embed: Embeds a batch.
        params: The parameters by name.
        cotangents: The gradients of what `embed` makes.
    """

    def outputs(*values: mx.array) -> list[mx.array]:
        with bound_params(module, dict(zip(params, values, strict=True))):
            return leaves(embed())

    _, gradients = mx.vjp(outputs, list(params.values()), leaves(cotangents))
    return dict(zip(params, gradients, strict=True))


def row_key(example: Example) -> str:
    """Make the key of a row's inputs from its tokens, its supervised tokens, its prompt and its images."""
    prompt = np.asarray(example.inputs.get(PROMPT, ()))
    parts = [example.tokens.tobytes(), example.supervised.tobytes(), prompt.tobytes()]
    return digest([*parts, *(key.encode() for key in example.image_keys)])


def forget_last_batch(module: nn.Module) -> None:
    """Clear positions and image features that some families leave on the module for the next batch."""
    for owner, names in (
        (module.language_model, ("_position_ids", "_rope_deltas")),
        (module, ("_image_cache",)),
    ):
        for name in names:
            if getattr(owner, name, None) is not None:
                setattr(owner, name, None)


def to_device(value: Any) -> Any:
    """Convert host arrays to device arrays, also in lists; other values are left unchanged."""
    if isinstance(value, np.ndarray):
        return mx.array(value)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [mx.array(item) for item in value]
    return value
