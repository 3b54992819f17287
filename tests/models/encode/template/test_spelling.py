"""Numbers of tools and calls: learned as the row writes them, or refused where the template changes them."""

from collections.abc import Callable

import pytest

from tests import chat_templates
from tests.models.encode.template.talks import IM_END, answered, assistant, supervised_texts, talk, user
from vlora.data.format.samples import format_sample
from vlora.errors import SampleError
from vlora.models import Encoder
from vlora.system.written_json import parse_json

Encoding = Callable[..., Encoder]


WRITTEN = '{"x": 12.50, "most": 0.12345678901234567890, "n": -0, "list": [1E3, {"y": 7.10}], "s": "1.0", "plain": 0.5}'


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("call.arguments if call.arguments is string else call.arguments | tojson", WRITTEN),
        ("'' + call.arguments", WRITTEN),
        ("call.arguments | tojson }}{{ ' ' ~ call.arguments.x if call.arguments.x is defined", f"{WRITTEN} 12.50"),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_numbers_of_calls_and_tools(change: str, shown: str, as_text: bool, encoder: Encoding) -> None:
    """Numbers are learned and shown as the row has them, whatever Python's JSON would make of them."""
    unchanged = "call.arguments if call.arguments is string else call.arguments | tojson"
    template = chat_templates.QWEN3_VL.replace(unchanged, change)
    encode = answered("qwen3_vl", encoder, template)
    tool = parse_json('{"name": "zoom", "description": "Enlarges.", "parameters": {"maximum": 4.00, "step": 1e-07}}')
    call = {"name": "zoom", "arguments": WRITTEN if as_text else parse_json(WRITTEN)}
    example = encode(format_sample(talk(assistant(None, tool_calls=[call]), user("And?"), assistant(), tools=[tool])))

    assert supervised_texts(example, encode)[0] == (
        f'<tool_call>\n{{"name": "zoom", "arguments": {shown}}}\n</tool_call>{IM_END}'
    )
    assert '{"maximum": 4.00, "step": 1e-07}' in encode.tokenizer.decode(example.tokens)


def test_numbers_that_a_template_changes(encoder: Encoding) -> None:
    """A number that a template does not write as it gets it cannot be kept, and is refused with what can."""
    unchanged = "call.arguments if call.arguments is string else call.arguments | tojson"
    change = f"{unchanged} }}}}{{{{ (call.arguments.x or 0) | int"
    encode = answered("qwen3_vl", encoder, chat_templates.QWEN3_VL.replace(unchanged, change))
    row = talk(assistant(None, tool_calls=[{"name": "zoom", "arguments": '{"x": 12.50}'}]))

    with pytest.raises(SampleError, match=r"^row: .* 12\.50 is one; write them .* \(12\.5\), or as strings"):
        encode(format_sample(row))
    row = talk(assistant(None, tool_calls=[{"name": "zoom", "arguments": '{"x": 12.5}'}]))
    assert '{"x": 12.5}12}' in supervised_texts(encode(format_sample(row)), encode)[0]
