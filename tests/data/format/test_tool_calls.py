"""Tool calls and tools of rows: every way to write them, and what is refused."""

import json
from typing import Any

import pytest

from tests.data.format.conversations import ANSWER, CALL, FROM_VALUE, QUESTION
from vlora import Turn, format_sample

WITH_CALLS = {
    "OpenAI": {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": CALL}]},
    "arguments as JSON": {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "zoom", "arguments": json.dumps(CALL["arguments"])}}],
    },
    "bare, as JSON": {"role": "assistant", "content": None, "tool_calls": json.dumps([CALL])},
    "OpenAI's first layout": {"role": "assistant", "content": None, "function_call": CALL},
    "LLaMA-Factory": {"from": "function_call", "value": json.dumps(CALL)},
    "LLaMA-Factory, a list": {"from": "function_call", "value": json.dumps([CALL])},
    "Swift": {"role": "tool_call", "content": json.dumps(CALL)},
}


@pytest.mark.parametrize("case", WITH_CALLS)
def test_calls(case: str) -> None:
    """A tool's call is read with its name and its arguments, whatever the layout; its answer is the tool's turn."""
    messages = [QUESTION, WITH_CALLS[case], {"role": "observation", "content": "42"}, ANSWER]

    sample = format_sample({"messages": messages})

    expected = {**CALL, "id": "a"} if case == "OpenAI" else CALL
    assert sample.turns[1] == Turn("assistant", (), calls=(expected,))
    assert sample.turns[2] == Turn("tool", ("42",))


def test_call_without_arguments() -> None:
    """A call may have no arguments, and what is said beside it stays."""
    message = {"role": "assistant", "content": "Let me look.", "tool_calls": [{"function": {"name": "look"}}]}

    sample = format_sample({"messages": [QUESTION, message]})

    assert sample.turns[1] == Turn("assistant", ("Let me look.",), calls=({"name": "look", "arguments": {}},))


@pytest.mark.parametrize("text", ["{}", "zoom(3)", '{"x": 3}', "[1]"])
def test_function_call_of_another_format_is_text(text: str) -> None:
    """What the role function_call writes in a format of its own is an answer as it is written."""
    sample = format_sample({"conversations": [*FROM_VALUE[:1], {"from": "function_call", "value": text}]})

    assert sample.turns[1] == Turn("assistant", (text,))


TOOL = {"type": "function", "function": {"name": "zoom", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "tools",
    [[TOOL], TOOL, json.dumps([TOOL]), json.dumps(TOOL), [json.dumps(TOOL)], [TOOL["function"]]],
    ids=["list", "one", "JSON of a list", "JSON of one", "list of JSON", "bare"],
)
def test_tools(tools: Any) -> None:
    """Descriptions of tools come as chat templates take them."""
    assert format_sample({"messages": [QUESTION, ANSWER], "tools": tools}).tools == (TOOL,)


@pytest.mark.parametrize("tools", [None, [], "", "[]"])
def test_no_tools(tools: Any) -> None:
    """A row may have the column and no tools."""
    assert format_sample({"messages": [QUESTION, ANSWER], "tools": tools}).tools == ()
