"""Rows with thoughts, calls and tools that the tests of templates share, and what is learned of them."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from tests import chat_templates
from vlora import Example
from vlora.models import Encoder

Encoding = Callable[..., Encoder]

IM_END = "<|im_end|>"


def user(text: str = "What is it?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None = "A meter.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def talk(*messages: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {"messages": [user(), *messages], **columns}


def answered(family: str, encoder: Encoding, template: str, **data: Any) -> Encoder:
    data = {"train_on_completions": True, **data}
    return attrs.evolve(encoder(family, **data), template=template)


def supervised_texts(example: Example, encode: Encoder) -> list[str]:
    """Decode each run of supervised tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], example.supervised, [False]])))
    return [
        encode.tokenizer.decode(example.tokens[start:stop]) for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]


TEMPLATES = {
    "qwen2_vl": chat_templates.QWEN2_VL,
    "qwen3_vl": chat_templates.QWEN3_VL,
    "gemma3": chat_templates.GEMMA3,
    "idefics3": chat_templates.IDEFICS3,
}


TOOL = {"type": "function", "function": {"name": "zoom", "description": "Enlarges.", "parameters": {}}}


CALL = {"name": "zoom", "arguments": {"x": 3, "Größe": "ä"}}


CALLED = '<tool_call>\n{"name": "zoom", "arguments": {"x": 3, "Größe": "ä"}}\n</tool_call>'


def sized(**asked: int) -> dict[str, Any]:
    part = {"type": "image", **asked}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}, assistant()]}


CALLING = assistant(None, tool_calls=[{"type": "function", "function": CALL}])


ANSWERED = [CALLING, {"role": "tool", "content": "42"}, assistant("It says 42.")]


SHARED = [
    {"from": "human", "value": "What is it?"},
    {"from": "function_call", "value": '{"name": "zoom", "arguments": {"x": 3, "Größe": "ä"}}'},
    {"from": "observation", "value": "42"},
    {"from": "gpt", "value": "It says 42."},
]


ROWS: dict[str, dict[str, Any]] = {
    "system (a column)": talk(assistant(), system="Be brief."),
    "system (a turn)": {"messages": [{"role": "system", "content": "Be brief."}, user(), assistant()]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, user(), assistant()]},
    "tools": talk(assistant(), tools=[TOOL]),
    "tool_calls": talk(CALLING),
    "tool": talk(*ANSWERED),
    "function_call, observation": {"conversations": SHARED},
    "reasoning_content": talk(assistant(reasoning_content="It has a dial.")),
    "<think> in the text": talk(assistant("<think>\nIt has a dial.\n</think>\n\nA meter.")),
    "weight": talk(assistant("Nothing.", weight=0), user("Well?"), assistant()),
    "loss": talk(assistant("Nothing.", loss=False), user("Well?"), assistant()),
    "train": talk(assistant("Nothing.", train=False), user("Well?"), assistant()),
    "resized_height, resized_width": sized(resized_height=32, resized_width=64),
    "min_pixels, max_pixels": sized(min_pixels=2000, max_pixels=9000),
    "objects, <bbox>": talk(
        assistant("<ref-object>: <bbox>"), objects={"ref": ["A dial"], "bbox": [[0, 8, 16, 32]], "bbox_type": "real"}
    ),
}


THOUGHTS = (
    assistant("A meter.", reasoning_content="It has a dial."),
    assistant("<think>\nIt has a dial.\n</think>\n\nA meter."),
    assistant("<think>It has a dial.</think>A meter."),
)
