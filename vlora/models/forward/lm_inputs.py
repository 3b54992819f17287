"""Inputs of a language model besides token ids: their names and layouts. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from ...types import Tree

LMInputs = dict[str, Any]
"""Keyword arguments of a language model: name to array, or to a list of arrays (one per layer)."""

MASKED = -1e9


@attrs.frozen(kw_only=True)
class PadSpec:
    """The layout of a field: how rows' arrays are padded on the right and stacked.

    Attributes:
        batch_axis: The axis of length 1 along which rows are concatenated.
        token_axes: The axes padded to the batch's length; none where all rows have one shape.
        padding: "edge" repeats the last place; "zero" writes zeros or False; "causal" lets an added query see
            itself and all before it, and no other query an added key.
        absent: Value for a row without the field: zeros, places counted from 0, or a causal mask.
        carries_gradient: Whether gradients flow through it.
        is_prompt: Whether it belongs to an encoder's prompt, which has its own length.
        counts_places: Whether its values are places of the row.
    """

    batch_axis: int = 0
    token_axes: tuple[int, ...] = (1,)
    padding: Literal["edge", "zero", "causal"] = "zero"
    absent: Literal["zero", "count", "causal"] = "zero"
    carries_gradient: bool = False
    is_prompt: bool = False
    counts_places: bool = False

    @property
    def follows_tokens(self) -> bool:
        """Whether it has an entry per token, so that several rows can be packed into one."""
        return bool(self.token_axes) and not self.is_prompt


Layouts = Mapping[str, PadSpec]
"""Name of an input to its layout."""

StackInputs = Callable[[Sequence[Mapping[str, Any]], int], LMInputs]
"""Stacks inputs of a family that cannot be padded one by one: (each row's inputs, T) to those of the batch."""

LAYOUTS: Layouts = {
    # Embeddings are padded by repeating the last place: zeros give NaN in some families.
    "inputs_embeds": PadSpec(padding="edge", carries_gradient=True),
    "per_layer_inputs": PadSpec(padding="edge", carries_gradient=True),
    "deepstack_visual_embeds": PadSpec(carries_gradient=True),
    "position_ids": PadSpec(batch_axis=-2, token_axes=(-1,), padding="edge", absent="count"),
    "visual_pos_masks": PadSpec(),
    "blocks": PadSpec(),
    "mask": PadSpec(token_axes=(-2, -1), padding="causal", absent="causal"),
}
"""Inputs that several families have; those of one are in its file (`Forward.own_inputs`)."""

LOGIT_PLACES = "logit_places"
"""i32[1, T]: where in the embedded row the logit stands that predicts the token after t; only where placeholders
expand within the model."""

PROMPT = "prompt_ids"
"""i32[1, S] among a row's inputs: what the encoder of an encoder-decoder reads; `Example.tokens` are the decoder's."""

SEGMENTS = "segments"
"""i32[B, T]: `Batch.segment_ids`, where rows are packed; becomes part of the attention's mask."""


def stack_nothing(_: Sequence[Mapping[str, Any]], __: int) -> LMInputs:
    """Stack no input: each can be padded by itself."""
    return {}


def partition_inputs(fields: Mapping[str, Any], layouts: Layouts = LAYOUTS) -> tuple[Tree, Tree]:
    """Partition a batch's fields into those that gradients flow through, and the others."""
    carrying = {name: value for name, value in fields.items() if name in layouts and layouts[name].carries_gradient}
    return carrying, {name: value for name, value in fields.items() if name not in carrying}


def leaves(tree: Tree) -> list[mx.array]:
    """List a tree's arrays sorted by their names; `mx.compile` does not keep the order."""
    return [value for _, value in sorted(tree_flatten(tree), key=lambda leaf: leaf[0])]


def place_logits(inputs: LMInputs, positions: mx.array, length: int) -> tuple[LMInputs, mx.array]:
    """Find positions of a batch's tokens within the rows that the language model sees.

    Args:
        inputs: The language model's inputs.
        positions: i32[N], flat places b T + t of the tokens.
        length: T.

    Returns:
        The inputs that the model takes, and i32[N]: flat places within its rows.
    """
    if LOGIT_PLACES not in inputs:
        return inputs, positions
    # Images expand within the model: its rows are longer than the batch's.
    rest = {name: value for name, value in inputs.items() if name != LOGIT_PLACES}
    within = inputs[LOGIT_PLACES].reshape(-1)[positions]
    return rest, positions // length * rest["inputs_embeds"].shape[1] + within
