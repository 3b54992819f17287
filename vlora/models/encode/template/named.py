"""Which chat template writes a model's rows: its own, one that the recipe names, or one in a file."""

import io
import json
from collections.abc import Mapping
from typing import Any

import attrs

from ....errors import ModelError
from ....facts import TemplateUse
from ....recipe.schema import DataSection
from ....system.files import expand, open_regular
from ...families.family import Family
from .chat_template import mend_end_of_turn

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

AROUND_IMAGES = (
    ("<|vision_start|>", "<|vision_end|>"),
    ("<|begin_of_image|>", "<|end_of_image|>"),
    ("<|media_start|>image<|media_content|>", "<|media_end|>"),
)
"""What templates, and not processors, write around an image where the vocabulary has it."""


@attrs.frozen(kw_only=True)
class Template:
    """A chat template.

    Attributes:
        text: The program.
        origin: Whose it is.
    """

    text: str
    origin: TemplateUse


def find_template(processor: Any, tokenizer: Any, family: Family, data: DataSection) -> Template:
    """Find the template that writes a model's rows.

    Args:
        processor: As `load_processor` returns it.
        tokenizer: Its tokenizer.
        family: The model's.
        data: The recipe's section.

    Raises:
        ModelError: There is none, or the recipe gives one that cannot be used.
    """
    own = family.format.template or _own_template(processor, tokenizer, family)
    if data.chat_template is None:
        if own is None:
            msg = (
                "the model has no chat template; set data.chat_template to the layout that it was trained with: "
                f"{', '.join(map(repr, sorted(NAMED)))}, or a file with a template of yours"
            )
            raise ModelError(msg)
        whose = TemplateUse(origin="model" if family.format.template is None else "vlora")
        return Template(text=mend_end_of_turn(own, tokenizer.eos_token), origin=whose)
    if family.format.is_prefix_lm or family.format.process is not None:
        msg = (
            f"data.chat_template: found {data.chat_template!r}, and models of this family have one layout, which "
            "their processor writes; leave it out"
        )
        raise ModelError(msg)
    whose = TemplateUse(origin="recipe", given=data.chat_template, replaces_own=own is not None)
    return Template(text=_given_template(data.chat_template, tokenizer), origin=whose)


def write_image(image_token: str, tokenizer: Any) -> str:
    """Write an image as a template does: its token, and what the vocabulary has to stand around one."""
    vocabulary = tokenizer.get_vocab()
    for before, after in AROUND_IMAGES:
        if after in vocabulary and not image_token.startswith(before):
            return before + image_token + after
    return image_token


def _own_template(processor: Any, tokenizer: Any, family: Family) -> str | None:
    owners = (tokenizer, processor) if family.format.has_own_template else (processor, tokenizer)
    found = next(filter(None, (getattr(owner, "chat_template", None) for owner in owners)), None)
    if isinstance(found, Mapping):
        found = found.get("default") or next(iter(found.values()))
    return found


def _given_template(given: str, tokenizer: Any) -> str:
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
