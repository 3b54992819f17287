"""Messages as templates want them: results of tools with their names, calls with their identifiers."""

from collections.abc import Callable

import attrs
import pytest

from tests import chat_templates
from tests.models.encode.template.talks import (
    CALL,
    CALLED,
    IM_END,
    ROWS,
    answered,
    assistant,
    supervised_texts,
    talk,
)
from vlora import Turn
from vlora.data.format.samples import format_sample
from vlora.errors import SampleError
from vlora.models import Encoder
from vlora.models.encode.template.chat_template import name_tools

Encoding = Callable[..., Encoder]


def test_names_of_tools() -> None:
    """A tool's turn has its own name, that of the call that it answers, or that of the next call."""
    calls = ({"name": "a", "arguments": {}, "id": "1"}, {"name": "b", "arguments": {}, "id": "2"})
    asked = Turn("assistant", (), calls=calls)
    results = [
        Turn("tool", ("x",), call_id="2"),
        Turn("tool", ("y",)),
        Turn("tool", ("z",)),
        Turn("tool", (), name="n"),
    ]

    turns = name_tools([Turn("user", ("q",)), asked, *results, attrs.evolve(asked, calls=calls[:1]), results[1]])

    assert [turn.name for turn in turns] == [None, None, "b", "a", None, "n", None, "a"]


def test_identified_calls(encoder: Encoding) -> None:
    """A template that wants calls to have an id is given the row's, and says what it wants where there is none."""
    check = "{{ raise_exception('a call has an id of nine letters') if (call.id or '') | length != 9 }}"
    marked = "{%- for call in message.tool_calls or [] -%}"
    template = chat_templates.QWEN3_VL.replace(marked, marked + check).replace(
        "'\n<tool_response>\n'", "message.tool_call_id"
    )
    encode = answered("qwen3_vl", encoder, template)
    known = {"id": "abcdefghi", "type": "function", "function": CALL}
    result = {"role": "tool", "tool_call_id": "abcdefghi", "name": "zoom", "content": "42"}
    sample = format_sample(talk(assistant(None, tool_calls=[known]), result, assistant("It says 42.")))

    assert sample.turns[2].name == "zoom"
    assert "userabcdefghi42" in encode.render(sample)
    assert supervised_texts(encode(sample), encode) == [f"{CALLED}{IM_END}", f"It says 42.{IM_END}"]
    with pytest.raises(SampleError, match="turn 3 holds 7 under 'tool_call_id', expected a text"):
        format_sample(talk(assistant(None, tool_calls=[known]), {**result, "tool_call_id": 7}, assistant()))
    with pytest.raises(SampleError, match=r"^row: the chat template refuses .*: a call has an id of nine"):
        encode(format_sample(ROWS["tool_calls"]))
