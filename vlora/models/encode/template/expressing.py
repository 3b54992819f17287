"""What a chat template can express besides texts and images: tools, calls, results, thoughts. Found by rendering."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from ....data.masking import make_sentinel
from ....errors import SampleError
from ....types import ImageSlot, Sample, Turn
from .chat_template import ContentStyle, render, write_messages

THINKING: Mapping[str, Any] = {"enable_thinking": True}
"""The option with which published templates ask for an answer with a thought."""
NOT_THINKING: Mapping[str, Any] = {"enable_thinking": False}
"""The option with which they ask for an answer without one."""

_QUESTION, _ANSWER, _NAME, _KEY, _VALUE, _USE, _RESULT, _THOUGHT = (make_sentinel(number) for number in range(8))

Try = Callable[..., str | None]
"""Returns what a template does instead of writing some words of a conversation; None if it writes them."""


def find_fields(template: str, names: Mapping[str, Any], style: ContentStyle) -> ContentStyle:
    """Find what a template can express besides texts and images, and in which form.

    Args:
        template: The template.
        names: Further variables of the template.
        style: The form in which it takes texts and images.
    """

    def find_lack(
        turns: Sequence[Turn],
        needed: Sequence[str],
        style: ContentStyle,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        **given: Any,
    ) -> str | None:
        try:
            text = render(template, write_messages(turns, style), {**names, **given}, tools=tools)
        except Exception as error:  # noqa: BLE001 - templates raise anything for what they cannot express
            return f"it raises {str(error) or type(error).__name__!r}"
        return None if all(part in text for part in needed) else "it leaves that out"

    question, answer = Turn("user", (ImageSlot(0), _QUESTION)), Turn("assistant", (_ANSWER,))
    tool = {"type": "function", "function": {"name": _NAME, "description": _USE, "parameters": {"type": "object"}}}
    lacks = {"tools": find_lack([question, answer], [_QUESTION, _NAME, _USE], style, tools=[tool])}
    style, lacks["tool_calls"], calling = _find_calls(find_lack, question, style)
    # A template may write results and no calls: its models call in words.
    style, lacks["tool"] = _find_results(find_lack, [question, calling or answer], answer, style)
    style, lacks["reasoning_content"] = _find_thoughts(find_lack, question, answer, style)
    return attrs.evolve(style, lacks={field: lack for field, lack in lacks.items() if lack is not None})


def _find_calls(find_lack: Try, question: Turn, style: ContentStyle) -> tuple[ContentStyle, str | None, Turn | None]:
    call = {"name": _NAME, "arguments": {_KEY: _VALUE}}
    problem: str | None = None
    for writes_arguments, known in itertools.product((False, True), ({}, {"id": "a1b2c3d4e"})):
        tried = attrs.evolve(style, writes_arguments=writes_arguments)
        needed = [json.dumps(call["arguments"], ensure_ascii=False)] if writes_arguments else [_KEY, _VALUE]
        calling = Turn("assistant", (), calls=({**call, **known},))
        lack = find_lack([question, calling], [_NAME, *needed], tried)
        if lack is None:
            return tried, None, calling
        problem = problem or lack
    return style, problem, None


def _find_results(
    find_lack: Try, asked: Sequence[Turn], answer: Turn, style: ContentStyle
) -> tuple[ContentStyle, str | None]:
    known = next((call.get("id") for call in asked[-1].calls), None)
    result = Turn("tool", (_RESULT,), name=_NAME, call_id=known)
    problem: str | None = None
    for lists in (style.lists, style.lists | {"tool"}):
        tried = attrs.evolve(style, lists=lists)
        lack = find_lack([*asked, result, answer], [_RESULT, _ANSWER], tried)
        if lack is None:
            return tried, None
        problem = problem or lack
    return style, problem


def _find_thoughts(
    find_lack: Try, question: Turn, answer: Turn, style: ContentStyle
) -> tuple[ContentStyle, str | None]:
    thinking = attrs.evolve(answer, thought=_THOUGHT)
    problem: str | None = None
    for in_parts, given in itertools.product((False, True), ({}, THINKING)):
        tried = attrs.evolve(style, thinks_in_parts=in_parts)
        lack = find_lack([question, thinking], [_THOUGHT, _ANSWER], tried, **given)
        if lack is None:
            return tried, None
        problem = problem or lack
    return style, problem


def refuse_unexpressed(sample: Sample, style: ContentStyle) -> None:
    """Refuse a row that holds what the model's chat template cannot express, so that nothing of it is lost.

    Raises:
        SampleError: It does; the message names the field and what the template does.
    """
    found = {"tools": "the row describes tools (tools)"} if sample.tools else {}
    for number, turn in enumerate(sample.turns, 1):
        if turn.calls:
            found.setdefault("tool_calls", f"turn {number} calls a tool (tool_calls)")
        if turn.role == "tool":
            found.setdefault("tool", f"turn {number} is a tool's answer (role tool)")
        if turn.thought is not None and turn.thought.strip():
            found.setdefault("reasoning_content", f"turn {number} has a thought (reasoning_content)")
    for field, what in found.items():
        if field in style.lacks:
            msg = (
                f"{sample.source}: {what}, which the model's chat template cannot express: {style.lacks[field]}; take "
                "it out, or write it into the text of a turn"
            )
            raise SampleError(msg)
