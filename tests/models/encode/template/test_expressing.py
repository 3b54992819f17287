"""What a template expresses: every field of a row is trained, or refused."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from PIL import Image

from tests.models.encode.template.talks import (
    CALLED,
    IM_END,
    ROWS,
    TEMPLATES,
    answered,
    assistant,
    supervised_texts,
    user,
)
from vlora.data.format.samples import format_sample
from vlora.errors import SampleError
from vlora.models import Encoder

Encoding = Callable[..., Encoder]


ENDS = {"qwen2_vl": IM_END, "qwen3_vl": IM_END, "gemma3": "<end_of_turn>", "idefics3": "<end_of_utterance>"}


SAYS: dict[str, str] = {
    "tools": "describes tools (tools), which the model's chat template cannot express",
    "tool_calls": "turn 2 calls a tool (tool_calls), which the model's chat template cannot express",
    "tool": "turn 2 calls a tool (tool_calls), which the model's chat template cannot express",
    "function_call, observation": "turn 2 calls a tool (tool_calls), which the model's chat template cannot express",
    "reasoning_content": "turn 2 has a thought (reasoning_content), which the model's chat template cannot express",
    "resized_height, resized_width": "resized_height = 32, resized_width = 64, and this model takes no sizes of rows",
    "min_pixels, max_pixels": "min_pixels = 2000, max_pixels = 9000, and this model takes no sizes of rows",
    "objects, <bbox>": "the row has boxes, and how this model's family writes them is not known",
}
"""What is said of a field that a template cannot express, or a family has no convention for."""


EXPRESSES: Mapping[str, Mapping[str, list[str]]] = {
    "qwen3_vl": {
        "tools": ["A meter."],
        "tool_calls": [CALLED],
        "tool": [CALLED, "It says 42."],
        "function_call, observation": [CALLED, "It says 42."],
        "resized_height, resized_width": ["A meter."],
        "min_pixels, max_pixels": ["A meter."],
        "objects, <bbox>": ["A dial: [0, 250, 500, 1000]"],
    },
    "qwen2_vl": {
        "resized_height, resized_width": ["A meter."],
        "min_pixels, max_pixels": ["A meter."],
        "objects, <bbox>": [
            "<|object_ref_start|>A dial<|object_ref_end|>: <|box_start|>(0,250),(500,1000)<|box_end|>",
        ],
    },
}
"""What is learned of the fields that only some templates express."""


SHOWN = {
    "system (a column)": "Be brief.",
    "system (a turn)": "Be brief.",
    "developer": "Be brief.",
    "tools": '"description": "Enlarges."',
    "tool": "42\n</tool_response>",
    "function_call, observation": "42\n</tool_response>",
}
"""What is read and not learned."""


SIZES = {"resized_height, resized_width": [(64, 32)], "min_pixels, max_pixels": [(48, 48)]}
"""(width, height) of the images of rows that ask for one."""


PARTS = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
LAID_OUT: Mapping[str, Mapping[str, Any]] = {
    "prompt, completion": {"prompt": "What is it?", "completion": "A meter."},
    "prompt, completion as messages": {"prompt": [user()], "completion": [assistant()]},
    "query, response, history": {"query": "What is it?", "response": "A meter.", "history": [["Well?", "A meter."]]},
    "instruction, input, output": {"instruction": "Say it.", "input": "What is it?", "output": "A meter."},
    "texts": {"texts": [{"user": "What is it?", "assistant": "A meter.", "source": "dials"}]},
    "question, answer": {"question": "What is it?", "answer": "A meter."},
    "prefix, suffix": {"prefix": "What is it?", "suffix": "A meter."},
    "caption": {"caption": "A meter."},
    "text": {"text": "A meter."},
    "from, value": {"conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A meter."}]},
    "messages as JSON": {"messages": json.dumps([user(), assistant()])},
    "contents as JSON": {"messages": [user(json.dumps(PARTS)), assistant()]},
    "<image>": {"messages": [user("<image>What is it?"), assistant()]},
    "<image> as a word": {"messages": [user("What is it?"), assistant("A meter: \\<image>.")]},
}
"""Rows in other layouts; each has one image."""


@pytest.mark.parametrize("layout", LAID_OUT)
@pytest.mark.parametrize("family", TEMPLATES)
def test_every_layout_is_trained(family: str, layout: str, encoder: Encoding) -> None:
    """In whichever layout a row stands, its answers are learned and its question is read, for every template alike.

    The name of a model's own token for images is no word to it: such a row is refused.
    """
    encode = answered(family, encoder, TEMPLATES[family])
    sample = format_sample({**LAID_OUT[layout], "image": Image.new("RGB", (32, 32))}, "rows row 3")
    if "word" in layout and encode.tokens.image_token == "<image>":
        with pytest.raises(SampleError, match=r"^rows row 3: .* does the text hold '<image>' itself"):
            encode(sample)
        return

    example = encode(sample)

    found = [text.removeprefix(" ") for text in supervised_texts(example, encode)]
    answer = "A meter: <image>." if "word" in layout else "A meter."
    assert found == [answer + ENDS[family]] * (2 if "history" in layout else 1)
    assert ("What is it?" in encode.tokenizer.decode(example.tokens[~example.supervised])) == (
        layout not in ("caption", "text")
    )
    assert list(example.image_sizes) == [(32, 32)]


@pytest.mark.parametrize("field", ROWS)
@pytest.mark.parametrize("family", TEMPLATES)
def test_every_field_is_trained_or_refused(family: str, field: str, encoder: Encoding) -> None:
    """What a row holds is read and learned as the template writes it, or the row is refused with what that lacks."""
    encode = answered(family, encoder, TEMPLATES[family])
    image = Image.new("RGB", (32, 32))
    sample = format_sample({**ROWS[field], "image": image}, "rows row 3")
    expected = EXPRESSES.get(family, {}).get(field)
    if expected is None and field in SAYS:
        with pytest.raises(SampleError, match=rf"^rows row 3: .*{re.escape(SAYS[field])}"):
            encode(sample)
        with pytest.raises(SampleError, match=rf"^rows row 3: .*{re.escape(SAYS[field])}"):
            answered(family, encoder, TEMPLATES[family], train_on_completions=False)(sample)
        return

    example = encode(sample)

    if expected is None:
        expected = ["<think>\nIt has a dial.\n</think>\n\nA meter." if "think" in field else "A meter."]
    found = [text.removeprefix(" ") for text in supervised_texts(example, encode)]
    assert found == [text + ENDS[family] for text in expected]
    assert SHOWN.get(field, "") in encode.tokenizer.decode(example.tokens[~example.supervised])
    assert list(example.image_sizes) == SIZES.get(field, [(32, 32)])
