"""Conversations: every answer ended, and nothing of a row left out."""

from collections.abc import Callable

from tests import chat_templates
from tests.models.encode.template.talks import (
    ANSWERED,
    CALLING,
    THOUGHTS,
    TOOL,
    answered,
    assistant,
    supervised_texts,
    talk,
    user,
)
from vlora.data.format.samples import format_sample
from vlora.models import Encoder

Encoding = Callable[..., Encoder]


def test_ends_that_depend_on_what_follows(encoder: Encoding) -> None:
    """Where roles end turns, an answer ends with the user's and a call with the one that answers it."""
    encode = answered("glm4v", encoder, chat_templates.GLM)
    call = "<tool_call>zoom\n<arg_key>x</arg_key>\n<arg_value>3</arg_value>\n<arg_key>Größe</arg_key>\n"
    call += "<arg_value>ä</arg_value>\n</tool_call><|observation|>"
    rows = {
        "plain": talk(assistant(), user("Well?"), assistant()),
        "thought": talk(THOUGHTS[0], user("Well?"), THOUGHTS[0]),
        "call": talk(assistant(None, reasoning_content="Closer.", tool_calls=CALLING["tool_calls"]), tools=[TOOL]),
        "tool": talk(*ANSWERED, tools=[TOOL]),
    }
    learned = {name: supervised_texts(encode(format_sample(row)), encode) for name, row in rows.items()}

    assert learned == {
        "plain": ["<think></think>\nA meter.<|user|>", "<think></think>\nA meter.<|user|>"],
        "thought": ["<think></think>\nA meter.<|user|>", "<think>It has a dial.</think>\nA meter.<|user|>"],
        "call": [f"<think>Closer.</think>\n{call}"],
        "tool": [f"<think></think>\n{call}", "<think></think>\nIt says 42.<|user|>"],
    }


def test_turn_that_goes_on_behind_a_tool(encoder: Encoding) -> None:
    """What a tool answers within a turn is not learned, what the model writes before and behind it is."""
    # A token that the tiny vocabulary has, in the place of the published one.
    opening = "<|video|>"
    encode = answered("gemma4", encoder, chat_templates.GEMMA4.replace("<|tool_response>", opening))
    encode.stop_ids = tuple(encode.tokenizer.convert_tokens_to_ids(["<turn|>", opening]))
    sample = format_sample(talk(*ANSWERED, tools=[TOOL]))

    call = f'<|tool_call>call:zoom{{"x": 3, "Größe": "ä"}}<tool_call|>{opening}'
    assert supervised_texts(encode(sample), encode) == [call, "It says 42.<turn|>"]
    assert f"{opening}zoom: 42<tool_response|>It says" in encode.render(sample)
