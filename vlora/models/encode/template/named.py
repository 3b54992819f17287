"""Chat templates that a recipe gives: by the name of a layout, or in a file."""

import io
import json
from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ....system.files import expand, open_regular

_PARTS = (
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ image }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
)

PLAIN = "plain"

NAMED: Mapping[str, str] = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}" + _PARTS + "{{ '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "gemma": (
        # A system prompt stands at the beginning of the first question.
        "{{ bos_token }}{% set first = namespace(system='') %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}"
        "{% set first.system = message['content'] | map(attribute='text') | join + '\n\n' %}"
        "{% else %}"
        "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
        "{{ first.system }}{% set first.system = '' %}" + _PARTS + "{{ '<end_of_turn>\n' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "llava": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}" + _PARTS + "{{ ' ' }}"
        "{% elif message['role'] == 'user' %}{{ 'USER: ' }}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ image + '\n' }}{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{{ ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' }}" + _PARTS + "{{ ' ' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    PLAIN: "{% for message in messages %}" + _PARTS + "{{ '\n' }}{% endfor %}",
}
"""Templates that `data.chat_template` may name: Qwen's, Gemma's, LLaVA-1.5's (Vicuna's), and turns one below the other.
They write a conversation as these models' published templates do, without a system prompt of their own."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
}
"""Tokens that a vocabulary has to have: as mere letters they would end nothing."""


def given_template(given: str, tokenizer: Any) -> str:
    """Return the template that a recipe gives.

    Args:
        given: `data.chat_template`: a name of `NAMED`, or a file.
        tokenizer: The model's, whose vocabulary has to have the template's tokens.

    Raises:
        ModelError: The vocabulary lacks a token, or there is no such template and no such file.
    """
    if given in NAMED:
        missing = [token for token in NEEDED.get(given, ()) if token not in tokenizer.get_vocab()]
        if missing:
            msg = (
                f"data.chat_template: {given!r} writes {missing[0]!r}, which is no token of the model; take 'llava' or "
                f"'{PLAIN}', or a file with a template of yours"
            )
            raise ModelError(msg)
        return NAMED[given]
    try:
        with io.TextIOWrapper(open_regular(expand(given)), encoding="utf-8") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = (
            f"data.chat_template: {given!r} is none of {', '.join(map(repr, sorted(NAMED)))}, and no file that can be "
            f"read ({reason}); name a template, or a file with one"
        )
        raise ModelError(msg) from None
    return _unwrap(text, given)


def _unwrap(text: str, given: str) -> str:
    """Take a template out of a chat_template.json or a tokenizer_config.json, if it is in one."""
    if not given.endswith(".json"):
        return text
    try:
        found = json.loads(text)
        template = found["chat_template"]
    except (ValueError, KeyError, TypeError, RecursionError):
        template = None
    if not isinstance(template, str):
        found = "is no JSON object with a text under 'chat_template'"
        msg = f"data.chat_template: {given} {found}; give one, or a .jinja file"
        raise ModelError(msg)
    return template
