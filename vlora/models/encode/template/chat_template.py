"""Chat templates: programs of the model's authors, run unchanged. The form of their messages is found by rendering."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from transformers.utils.chat_template_utils import render_jinja_template

from ....data.values import write_text
from ....errors import ModelError
from ....types import ImageSlot, Turn

Message = dict[str, Any]


@attrs.frozen(kw_only=True)
class ContentStyle:
    """How a chat template wants its messages.

    Attributes:
        lists: Roles whose content is a list of parts; that of other roles is a string with the images written into it.
        image_token: The text of an image in a string.
        breaks_after_image: A line break follows an image, written by the template or into the string.
        lead: White space that the template writes before an answer, but not at the end of the prompt that asks for
            one: the model has to write it.
        writes_arguments: The template takes the arguments of tool calls as JSON text; others take them as objects.
        thinks_in_parts: The template takes a thought as a part of the content; others take it beside the content.
        lacks: Fields that the template cannot express (`tools`, `tool_calls`, `tool`, `reasoning_content`), each with
            what it does instead.
    """

    lists: frozenset[str]
    image_token: str
    breaks_after_image: bool = True
    lead: str = ""
    writes_arguments: bool = False
    thinks_in_parts: bool = False
    lacks: Mapping[str, str] = attrs.field(factory=dict)


def render(
    template: str,
    messages: list[Message],
    names: Mapping[str, Any],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    prompt: bool = False,
) -> str:
    """Run a chat template.

    Args:
        template: The template.
        messages: The conversation, as `write_messages` gives it.
        names: Further variables of the template.
        tools: Descriptions of tools; an empty sequence sets no variable.
        prompt: Whether to ask for an answer.
    """
    given: dict[str, Any] = {"tools": [dict(tool) for tool in tools]} if tools else {}
    texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, **given, **names)
    text: str = texts[0]
    return text


def mend_end_of_turn(template: str, end: str | None) -> str:
    r"""Spell the end of an answer as the end-of-sequence token.

    LLaVA-NeXT's published template (Mistral) ends answers with "<\s>", which the tokenizer reads as letters.
    """
    return re.sub(r"<\\+s>", "</s>", template) if end == "</s>" else template


def find_content_style(template: str, names: Mapping[str, Any], image_token: str) -> ContentStyle:
    """Find the form in which a template takes its messages, by rendering a conversation in every form.

    A form is right if the rendered text has the image and every text once, in order.

    Raises:
        ModelError: No form is right.
    """
    texts = ("\ue000question\ue001", "\ue000answer\ue001")
    problem = "it drops texts or the image"
    turns = [Turn("user", (ImageSlot(0), texts[0])), Turn("assistant", (texts[1],))]
    for lists in ({"user", "assistant"}, {"user"}, {"assistant"}, set[str]()):
        style = ContentStyle(lists=frozenset(lists), image_token=image_token)
        try:
            text = render(template, [write_message(turn, style) for turn in turns], names)
        except Exception as error:  # noqa: BLE001 - templates raise anything for a style they cannot take
            problem = str(error)
            continue
        places = [text.find(image_token), *(text.find(part) for part in texts)]
        if -1 in places or places != sorted(places) or "'type'" in text:
            continue
        after = text[places[0] + len(image_token) : places[1]]
        system = {"system"} if _wants_system_list(template, names, style) else set[str]()
        lead = _find_lead(template, names, write_message(turns[0], style), text[: places[2]])
        style = attrs.evolve(style, lists=style.lists | system, breaks_after_image=after.endswith("\n"), lead=lead)
        return style
    msg = (
        f"the model's chat template renders no conversation with an image ({problem}); mend it, or name another one in "
        "data.chat_template"
    )
    raise ModelError(msg)


def _find_lead(template: str, names: Mapping[str, Any], question: Message, before_answer: str) -> str:
    """Find the white space that stands before an answer and not at the end of the prompt that asks for it."""
    prompt = render(template, [question], names, prompt=True)
    lead = before_answer.removeprefix(prompt)
    return lead if lead.isspace() else ""


def _wants_system_list(template: str, names: Mapping[str, Any], style: ContentStyle) -> bool:
    """Whether a system prompt has to be a list: as a string it is lost, as a list it is not."""
    system = "\ue000system\ue001"
    rest = [write_message(turn, style) for turn in (Turn("user", ("a",)), Turn("assistant", ("b",)))]

    def shows(content: Any) -> bool:
        try:
            text = render(template, [{"role": "system", "content": content}, *rest], names)
        except Exception:  # noqa: BLE001 - a template may refuse system prompts altogether
            return False
        return system in text and "'type'" not in text

    return not shows(system) and shows([{"type": "text", "text": system, "content": system}])


def name_tools(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Name the tools whose turns have no name: by the call that they answer, or else in the order of the calls."""
    named = []
    called: dict[str, str] = {}
    for turn in turns:
        if turn.calls:
            called = {str(call.get("id") or number): str(call["name"]) for number, call in enumerate(turn.calls)}
        name = turn.name
        if turn.role == "tool" and called:
            key = turn.call_id if turn.call_id in called else next(iter(called))
            name = turn.name or called[key]
            del called[key]
        named.append(attrs.evolve(turn, name=name))
    return tuple(named)


def write_messages(turns: Sequence[Turn], style: ContentStyle) -> list[Message]:
    """Write a conversation as chat templates take it."""
    return [write_message(turn, style) for turn in turns]


def write_message(turn: Turn, style: ContentStyle) -> Message:
    """Write a turn as chat templates take it.

    LLaVA's layout breaks the line after "<image>"; where the template does so itself, the text's own break is left out.
    """
    message: Message = {"role": turn.role, "content": _write_content(turn, style)}
    if turn.name is not None:
        message["name"] = turn.name
    if turn.call_id is not None:
        message["tool_call_id"] = turn.call_id
    if turn.thought is not None and not style.thinks_in_parts:
        message["reasoning_content"] = turn.thought
    if turn.calls:
        message["tool_calls"] = [_write_call(call, style) for call in turn.calls]
    return message


def _write_call(call: Mapping[str, Any], style: ContentStyle) -> Message:
    arguments = call.get("arguments") or {}
    if style.writes_arguments:
        arguments = write_text(arguments, f"the arguments of {call['name']!r}")
    written = {"type": "function", "function": {"name": call["name"], "arguments": arguments}}
    return {"id": call["id"], **written} if call.get("id") else written


def _write_content(turn: Turn, style: ContentStyle) -> str | list[Message]:
    parts: list[Message] = []
    for part in turn.parts:
        if isinstance(part, ImageSlot):
            parts.append({"type": "image"})
            continue
        if not part and (turn.calls or turn.thought is not None):
            # Templates write a line break between what is said and a call.
            continue
        follows_image = bool(parts) and parts[-1]["type"] == "image"
        text = part.removeprefix("\n") if follows_image and style.breaks_after_image else part
        if part and not text and turn.role in style.lists:
            # Some templates write a line break or a space for every text, an empty one too.
            continue
        # Pixtral's template reads a text part's text under "content".
        parts.append({"type": "text", "text": text, "content": text})
    if turn.thought is not None and style.thinks_in_parts:
        return [{"type": "thinking", "thinking": turn.thought}, *parts]
    if turn.role in style.lists:
        return parts
    image = style.image_token + "\n" * style.breaks_after_image
    return "".join(part.get("text", image) for part in parts)
