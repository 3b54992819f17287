"""Checks on the first rows before training: for a family without a proof, and for packed rows."""

import itertools
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ...data.collate import collate, collate_packed
from ...errors import ModelError
from ...types import Batch, Example, IntArray, Tree, positions_of
from ..forward.lm_inputs import LOGIT_PLACES
from .backbone import MlxVlmBackbone

TOLERANCE = 0.02
"""Tolerance relative to the logits' spread: bfloat16 kernels of other shapes differ by less, a wrong mask by more."""

PACKED_TOLERANCE = 0.1
"""Tolerance for the root mean square, relative to the logits' spread: bfloat16 rotations at another place of the row
change it by up to 0.02, tokens of another row by 0.7 and more."""

PROBED_PLACES = 64


def check_family(backbone: MlxVlmBackbone, examples: Sequence[Example], model_type: str) -> None:
    """Check causality and independence from padding and from the other rows.

    Args:
        backbone: The model.
        examples: Two rows or more, of different lengths if possible, with and without images.
        model_type: For the message.

    Raises:
        ModelError: An earlier logit changes with a later token, or a row's logits with the batch it is in.
    """
    alone = [_logits(backbone, [example])[0, : len(example.tokens) - 1] for example in examples]
    together = _logits(backbone, examples)
    for row, (example, expected) in enumerate(zip(examples, alone, strict=True)):
        if _differs(expected, together[row, : len(example.tokens) - 1]):
            msg = (
                f"{example.source}: the logits of a {model_type} row change when it is padded and batched with others; "
                "vlora does not train what it cannot batch correctly"
            )
            raise ModelError(msg)
    batch = collate(examples[:1])
    last = len(examples[0].tokens) - 2
    with backbone.overrides():
        differentiable, auxiliary = backbone.embed_rows(batch)
        tokens, changed = _with_another(batch.tokens, differentiable, auxiliary, last)
        logits = np.array(backbone.all_logits(tokens, changed, auxiliary).astype(mx.float32))
    if last > 0 and _differs(alone[0][:last], logits[0, :last]):
        msg = (
            f"{examples[0].source}: earlier logits of this {model_type} model change with a later token, so it would "
            "see what it has to predict; vlora does not train it"
        )
        raise ModelError(msg)


def check_packing(backbone: MlxVlmBackbone, examples: Sequence[Example], length: int, model_type: str) -> None:
    """Check that packed rows have the logits of single rows: a model's configuration may differ from the proved one.

    Args:
        backbone: The model.
        examples: Rows, of different lengths if possible, with and without images; a pack is filled with them.
        length: Tokens of a packed row at most.
        model_type: For the message.

    Raises:
        ModelError: A row's logits change when others are packed before it, or positions as far from the row's
            beginning as a pack reaches mean something else to the model.
    """
    farthest = backbone.farthest_position()
    if length > farthest:
        msg = (
            f"train.pack_length: packed rows of {length} tokens were asked for, and this {model_type} model treats "
            f"positions from {farthest} on otherwise than those before; give at most {farthest}"
        )
        raise ModelError(msg)
    pack = list(examples)
    n_positions = sum(positions_of(example) for example in pack)
    for example in itertools.cycle(examples):
        n_positions += positions_of(example)
        if n_positions > length:
            break
        pack.append(example)
    batch = collate_packed([pack])
    for example, (_, start, count) in [*zip(pack, batch.spans, strict=True)][-len(examples) :]:
        places = np.unique(np.linspace(0, count - 1, PROBED_PLACES).astype(np.int32))
        alone = _logits_at(backbone, collate([example]), places)
        packed = _logits_at(backbone, batch, start + places)
        if np.sqrt(np.square(packed - alone).mean()) > PACKED_TOLERANCE * alone.std():
            msg = (
                f"{example.source}: the logits of this {model_type} model's row change when others are packed before "
                "it; use train.batching = 'grouped'"
            )
            raise ModelError(msg)


def _with_another(tokens: mx.array, differentiable: Tree, auxiliary: Tree, place: int) -> tuple[mx.array, Tree]:
    """Replace one token of a row by the first one: its embedding, or its id where the decoder embeds by itself.

    Args:
        tokens: i32[1, T].
        differentiable: As `embed` returns them.
        auxiliary: As `embed` returns them.
        place: In [1, T).
    """
    if "inputs_embeds" not in differentiable:
        return mx.concatenate([tokens[:, :place], tokens[:, :1], tokens[:, place + 1 :]], axis=1), differentiable
    embeds = differentiable["inputs_embeds"]
    # Where images expand within the model, a token's embedding stands behind its own place.
    place = int(auxiliary[LOGIT_PLACES][0, place]) if LOGIT_PLACES in auxiliary else place
    changed = mx.concatenate([embeds[:, :place], embeds[:, :1], embeds[:, place + 1 :]], axis=1)
    return tokens, {**differentiable, "inputs_embeds": changed}


def _logits(
    backbone: MlxVlmBackbone, examples: Sequence[Example]
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    batch = collate(examples)
    with backbone.overrides():
        logits = backbone.all_logits(batch.tokens, *backbone.embed_rows(batch))
    return np.array(logits.astype(mx.float32))


def _logits_at(
    backbone: MlxVlmBackbone, batch: Batch, places: IntArray
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    with backbone.overrides():
        logits = backbone.logits(batch.tokens, *backbone.embed(batch), mx.array(places))
    return np.array(logits.astype(mx.float32))


def _differs(
    expected: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
    found: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
) -> bool:
    return bool(np.abs(expected - found).max() > TOLERANCE * expected.std())
