"""Checks on the first real rows, before anything is trained: of a family without a proof, and of packed rows."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..batches import collate, collate_packs
from ..errors import ModelError
from ..types import Batch, Example, Tree
from .backbone import MlxVlmBackbone
from .fields import LOGIT_PLACES

TOLERANCE = 0.02
"""Of the logits' spread; bfloat16 kernels of different shapes differ by less, a wrong mask by more."""


def probe(backbone: MlxVlmBackbone, examples: Sequence[Example], model_type: str) -> None:
    """Check causality and independence from padding and from the other rows.

    Args:
        backbone: The model.
        examples: Two rows or more, of different lengths if possible, with and without images.
        model_type: For the message.

    Raises:
        ModelError: An earlier logit changes with a later token, or a row's logits with its company.
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
    with backbone.corrected():
        features, others = backbone.embed(batch)
        tokens, changed = _with_another(batch.tokens, features, others, last)
        logits = np.array(backbone.all_logits(tokens, changed, others).astype(mx.float32))
    if last > 0 and _differs(alone[0][:last], logits[0, :last]):
        msg = (
            f"{examples[0].source}: earlier logits of this {model_type} model change with a later token, so it would "
            "see what it has to predict; vlora does not train it"
        )
        raise ModelError(msg)


def probe_packing(backbone: MlxVlmBackbone, examples: Sequence[Example], model_type: str) -> None:
    """Check that packed rows have the logits of rows apart: a model may be configured otherwise than the one proved.

    Args:
        backbone: The model.
        examples: Rows, of different lengths if possible, with and without images.
        model_type: For the message.

    Raises:
        ModelError: A row's logits change when others are packed before it.
    """
    batch = collate_packs([examples])
    packed = _logits_of(backbone, batch)[0]
    for example, (_, start, count) in zip(examples, batch.spans, strict=True):
        if _differs(_logits(backbone, [example])[0, :count], packed[start : start + count]):
            msg = (
                f"{example.source}: the logits of this {model_type} model's row change when others are packed before "
                "it; use train.batching = 'grouped'"
            )
            raise ModelError(msg)


def _with_another(tokens: mx.array, features: Tree, others: Tree, place: int) -> tuple[mx.array, Tree]:
    """Put another token at a place of one row: the first one's embedding, or its id where a decoder embeds by itself.

    Args:
        tokens: i32[1, T].
        features: As `embed` returns them, as are the others.
        others: See above.
        place: In [1, T).
    """
    if "inputs_embeds" not in features:
        return mx.concatenate([tokens[:, :place], tokens[:, :1], tokens[:, place + 1 :]], axis=1), features
    embeds = features["inputs_embeds"]
    # Where images expand within the model, a token's embedding stands behind its own place.
    place = int(others[LOGIT_PLACES][0, place]) if LOGIT_PLACES in others else place
    changed = mx.concatenate([embeds[:, :place], embeds[:, :1], embeds[:, place + 1 :]], axis=1)
    return tokens, {**features, "inputs_embeds": changed}


def _logits(
    backbone: MlxVlmBackbone, examples: Sequence[Example]
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return _logits_of(backbone, collate(examples))


def _logits_of(backbone: MlxVlmBackbone, batch: Batch) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    with backbone.corrected():
        logits = backbone.all_logits(batch.tokens, *backbone.embed(batch))
    return np.array(logits.astype(mx.float32))


def _differs(
    expected: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
    found: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
) -> bool:
    return bool(np.abs(expected - found).max() > TOLERANCE * expected.std())
