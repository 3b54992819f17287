"""Finds the chat template that writes a model's rows: the recipe's, or the model's own."""

from collections.abc import Mapping
from typing import Any

import attrs

from ....errors import ModelError
from ....facts import TemplateUse
from ....recipe.schema import DataSection
from ...families.family import Family
from .chat_template import mend_end_of_turn
from .named import NAMED, given_template

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
    return Template(text=given_template(data.chat_template, tokenizer), origin=whose)


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
