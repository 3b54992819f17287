"""The tokens at which generation ends, and the end of an answer. How a template ends answers is found by rendering.

A model that has learned answers without an end token generates none. Some published templates write no end token after
the last answer: LLaVA-1.5's writes none at all, and GLM-4V's writes the next role's token, which ends generation too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from mlx_vlm.utils import resolve_eos_token_ids

from ....data.masking import leading_end_of_turn
from ....errors import ModelError


@attrs.frozen(kw_only=True)
class Ending:
    """How answers are ended.

    Attributes:
        text: The end of an answer that the model learns; empty if it learns none.
        each: Added after every answer, because the template ends none.
        last: Added after the last answer, because the template ends only those that another turn follows.
        closing: Added after the template's own end of the last answer, because generation does not stop there.
    """

    text: str = ""
    each: str = ""
    last: str = ""
    closing: str = ""


def find_stop_ids(config: Mapping[str, Any], processor: Any, tokenizer: Any) -> tuple[int, ...]:
    """List the tokens at which mlx-vlm's generation ends; the tokenizer's own is the last.

    Args:
        config: The model's config.json, generation_config.json's entries taken over.
        processor: As `load_processor` returns it.
        tokenizer: Its tokenizer.
    """
    ids = resolve_eos_token_ids(config.get("eos_token_id"), tokenizer)
    others: Sequence[int] = getattr(processor, "additional_eos_token_ids", None) or ()
    return tuple(dict.fromkeys((*ids, *others)))


def write_stops(stop_ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Write the tokens at which generation ends as texts that tokenize to them; the tokenizer's own is the first."""
    own = tokenizer.eos_token_id
    found = []
    for number in sorted(stop_ids, key=lambda number: number != own):
        text = tokenizer.convert_ids_to_tokens(number)
        if text and tokenizer(text, add_special_tokens=False)["input_ids"][-1:] == [number]:
            found.append(str(text))
    return found


def find_ending(after_last: str, after_earlier: str, stops: Sequence[str], special: Sequence[str]) -> Ending:
    """Find the text to add after answers so that they end with a token that ends generation. Pure.

    Args:
        after_last: The template's text after the last answer.
        after_earlier: Its text after an answer that a question follows; empty if it renders no such conversation.
        stops: As `write_stops`.
        special: Special tokens that an answer can end with, the longest first.

    Raises:
        ModelError: There is no token at which generation ends.
    """
    own = leading_end_of_turn(after_last, special)
    if own.endswith(tuple(stops)):
        return Ending(text=own)
    if not stops:
        msg = (
            "the model names no token at which generation ends (eos_token_id in generation_config.json, config.json "
            "or the tokenizer); name one there, or set data.learn_end = false to learn answers without an end"
        )
        raise ModelError(msg)
    if own:
        return Ending(text=own + stops[0], closing=stops[0])
    between = leading_end_of_turn(after_earlier, special)
    if between.endswith(tuple(stops)):
        return Ending(text=between, last=between)
    return Ending(text=stops[0], each=stops[0])
