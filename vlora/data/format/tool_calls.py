"""Reads descriptions of tools, and the tool calls of answers. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import SampleError
from .json_text import parse_if_json, parse_json, show

Call = Mapping[str, Any]

CALL_KEYS = ("tool_calls", "function_call")
"""Keys of messages that hold calls."""


def drop_gaps(value: Any) -> Any:
    """Remove None values from objects at any depth; JSON in a text is left unchanged.

    A typed table gives every object of a column the keys of all of them: a tool gets the parameters of the others.
    """
    if isinstance(value, Mapping):
        return {key: drop_gaps(inner) for key, inner in value.items() if inner is not None}
    return [drop_gaps(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def drop_gaps_of_calls(message: Call) -> Call:
    """Remove None values from a message's calls."""
    return {key: drop_gaps(value) if key in CALL_KEYS else value for key, value in message.items()}


def read_tools(value: Any, source: str) -> tuple[Call, ...]:
    """Read the descriptions of tools, as chat templates take them.

    Args:
        value: A list of descriptions, one of them, or JSON of either; None and empty ones for no tools. A description
            that is bare ({"name", "parameters", ...}) is put under "function", where templates look for it.
        source: The row, for errors.

    Raises:
        SampleError: The value has another form.
    """
    if isinstance(value, str) and value.strip():
        value = parse_json(value, "the tools, expected a list of descriptions", source)
    if isinstance(value, Mapping):
        value = [value]
    if not value:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        msg = f"{source}: found {show(value)} as the tools, expected a list of descriptions"
        raise SampleError(msg)
    return tuple(_read_tool(tool, source) for tool in value)


def _read_tool(tool: Any, source: str) -> Call:
    if isinstance(tool, str):
        tool = parse_json(tool, "a tool, expected its description", source)
    if not isinstance(tool, Mapping) or not (isinstance(tool.get("name"), str) or tool.get("function")):
        msg = f"{source}: found {show(tool)} as a tool, expected its description with a name"
        raise SampleError(msg)
    return tool if tool.get("function") else {"type": "function", "function": tool}


def read_calls(value: Any, source: str) -> tuple[Call, ...]:
    """Read the tool calls of a message.

    Args:
        value: A list of calls, one call, or JSON of either; each {"name", "arguments"}, alone or under "function", the
            arguments an object or JSON of one.
        source: The message, for errors.

    Returns:
        {"name": ..., "arguments": ...} of each, the arguments as JSON values, and the "id" if it has one.

    Raises:
        SampleError: The value has another form.
    """
    if isinstance(value, str) and value.strip():
        value = parse_json(value, "tool calls, expected a list of calls", source)
    if isinstance(value, Mapping):
        value = [value]
    if not value:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        msg = f"{source}: found {show(value)} as tool calls, expected a list of calls"
        raise SampleError(msg)
    return tuple(_read_call(call, source) for call in value)


def find_calls(text: str) -> tuple[Call, ...]:
    """Read calls from a text that is JSON, as in LLaMA-Factory's function_call turns; no calls from another text."""
    found = parse_if_json(text, "[{")
    calls = [found] if isinstance(found, Mapping) else found
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        return ()
    try:
        return read_calls(calls, "")
    except SampleError:
        return ()


def _read_call(call: Any, source: str) -> Call:
    if isinstance(call, str):
        call = parse_json(call, "a tool call, expected its name and arguments", source)
    named = call.get("function") or call if isinstance(call, Mapping) else {}
    if not isinstance(named, Mapping) or not isinstance(named.get("name"), str) or not named["name"]:
        msg = f"{source}: found {show(call)} as a tool call, expected its name and arguments"
        raise SampleError(msg)
    arguments = named.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        arguments = parse_json(arguments, f"the arguments of {named['name']!r}, expected an object", source)
    if not arguments:
        arguments = {}
    if not isinstance(arguments, Mapping):
        msg = f"{source}: found {show(arguments)} as the arguments of {named['name']!r}, expected an object"
        raise SampleError(msg)
    known = call.get("id") if isinstance(call, Mapping) else None
    return {
        "name": named["name"],
        "arguments": arguments,
        **({"id": known} if isinstance(known, str) and known else {}),
    }
