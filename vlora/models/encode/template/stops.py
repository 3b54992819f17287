"""Where generation ends, and what ends an answer there. How a template ends answers is found by trying.

An answer that was learned without an end is generated without one. Some published templates write none after the last
answer: LLaVA-1.5's none at all, GLM-4V's the next role's token, at which generation ends too.
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
        text: What the model learns to end an answer with; empty if nothing.
        each: What is written behind every answer, since the template ends none.
        last: What is written behind the last answer, since the template ends only those that another turn follows.
        closing: What is written behind the template's own end of the last answer, at which generation does not stop.
    """

    text: str = ""
    each: str = ""
    last: str = ""
    closing: str = ""


def find_stop_ids(config: Mapping[str, Any], processor: Any, tokenizer: Any) -> tuple[int, ...]:
    """List the tokens at which mlx-vlm's generation ends, the tokenizer's own last.

    Args:
        config: The model's config.json, generation_config.json's entries taken over.
        processor: As `load_processor` returns it.
        tokenizer: Its tokenizer.
    """
    ids = resolve_eos_token_ids(config.get("eos_token_id"), tokenizer)
    others: Sequence[int] = getattr(processor, "additional_eos_token_ids", None) or ()
    return tuple(dict.fromkeys((*ids, *others)))


def write_stops(stop_ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Write the tokens at which generation ends as text that becomes them; the tokenizer's own first."""
    own = tokenizer.eos_token_id
    found = []
    for number in sorted(stop_ids, key=lambda number: number != own):
        text = tokenizer.convert_ids_to_tokens(number)
        if text and tokenizer(text, add_special_tokens=False)["input_ids"][-1:] == [number]:
            found.append(str(text))
    return found


def find_ending(after_last: str, after_earlier: str, stops: Sequence[str], special: Sequence[str]) -> Ending:
    """Find out what has to be written behind answers so that they end where generation does. Pure.

    Args:
        after_last: What the template writes behind the last answer.
        after_earlier: What it writes behind one that a question follows; empty if it writes no such conversation.
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
