"""What writes the rows: the model's own chat template, a named one, or one in a file; or none, and it is refused."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from tests.checkpoints import FAMILIES
from tests.training import picture
from vlora import Example, Sample, Turn
from vlora.cli.sentences import describe_template
from vlora.errors import ModelError
from vlora.models import Encoder
from vlora.models.encode.template.named import NAMED
from vlora.types import ImageSlot

Encoding = Callable[..., Encoder]

TALK = (
    Turn("user", (ImageSlot(0), "What is in the image?")),
    Turn("assistant", ("A red square.",)),
    Turn("user", ("And the other?",)),
    Turn("assistant", ("A house, then two.",)),
)
ROW = Sample("a row", TALK, (picture(48, 32, 0),))
SYSTEM = attrs.evolve(ROW, turns=(Turn("system", ("Be brief.",)), *TALK))
WRITES_ONE_LAYOUT = ("paligemma", "paligemma2")


def learned(example: Example, encode: Encoder) -> list[str]:
    """Decode each run of supervised tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], example.supervised, [False]])))
    return [encode.tokenizer.decode(example.tokens[slice(*pair)]).strip(" ") for pair in edges.reshape(-1, 2)]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WRITES_ONE_LAYOUT])
def test_plain_rows_of_every_family(family: str, encoder: Encoding) -> None:
    """In the plain layout every family learns its answers with their ends, behind what asks for them, images seen."""
    encode = encoder(family, train_on_completions=True, chat_template="plain")
    example = encode(ROW)
    found = learned(example, encode)

    assert [text.startswith(turn.text) for text, turn in zip(found, TALK[1::2], strict=True)] == [True, True]
    assert int(example.tokens[example.supervised][-1]) in encode.stop_ids
    assert example.placeholders.any()
    prompt = encode.render(attrs.evolve(ROW, turns=TALK[:3]), add_generation_prompt=True)
    assert encode.render(ROW).startswith(prompt)
    assert describe_template(encode.template_use()).startswith("'plain'")


SAME = {"chatml": ("qwen3_vl", "qwen2_5_vl"), "gemma": ("gemma3",), "llava": ("llava",)}


@pytest.mark.parametrize(("name", "family"), [(name, family) for name in SAME for family in SAME[name]])
@pytest.mark.parametrize("sample", [ROW, SYSTEM], ids=["alone", "behind a system prompt"])
def test_named_ones_are_the_published(name: str, family: str, sample: Sample, encoder: Encoding) -> None:
    """A named template writes what the template of a model with that layout writes, and the same is learned."""
    if (family, sample) == ("qwen2_5_vl", ROW):
        pytest.skip("its own template adds a system prompt")
    own, named = (encoder(family, train_on_completions=True, **keys) for keys in ({}, {"chat_template": name}))

    assert named.render(sample) == own.render(sample)
    assert np.array_equal(named(sample).supervised, own(sample).supervised)
    assert "in place of the model's own" in describe_template(named.template_use())


@pytest.mark.parametrize("suffix", ["jinja", "json"])
def test_a_file(suffix: str, encoder: Encoding, tmp_path: Path) -> None:
    """A template of one's own is read as it is, alone or in a JSON file as the hub has them."""
    text = NAMED["chatml"].replace("assistant\n", "assistant\n\n").replace("+ '\n' }}", "+ '\n\n' }}")
    file = tmp_path / f"mine.{suffix}"
    file.write_text(text if suffix == "jinja" else json.dumps({"chat_template": text}))
    encode = encoder("qwen3_vl", train_on_completions=True, chat_template=str(file))

    assert "<|im_start|>assistant\n\nA red square.<|im_end|>" in encode.render(ROW)
    assert learned(encode(ROW), encode) == [f"{turn.text}<|im_end|>" for turn in TALK[1::2]]
    said = f"{str(file)!r}, in place of the model's own; answers end with '<|im_end|>'"
    assert describe_template(encode.template_use()) == said


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("llava", "chatml", r"'chatml' writes '<\|im_start\|>', which is no token of the model; take 'llava'"),
        ("qwen3_vl", "gemma", r"'gemma' writes '<start_of_turn>', which is no token"),
        ("qwen3_vl", "chatlm", r"'chatlm' is none of 'chatml', .*, and no file that can be read \(No such file"),
        ("qwen3_vl", ".", r"'\.' is none of .* \(it is a folder"),
        ("qwen3_vl", "~nosuchuser/a", r"is none of .* and no file that can be read"),
        ("qwen3_vl", "a\0b", r"is none of .* and no file that can be read"),
        ("paligemma", "plain", r"models of this family have one layout"),
    ],
)
def test_what_cannot_be_used(family: str, given: str, message: str, encoder: Encoding) -> None:
    """A name that there is not, a file that is none, a layout whose tokens the model lacks: one sentence."""
    with pytest.raises(ModelError, match=r"data\.chat_template: .*" + message):
        encoder(family, train_on_completions=True, chat_template=given)


def test_a_pipe_is_not_waited_for(encoder: Encoding, tmp_path: Path) -> None:
    """A name that leads to a pipe that nobody writes to is refused."""
    os.mkfifo(tmp_path / "a.jinja")
    with pytest.raises(ModelError, match=r"data\.chat_template: .*\(it is a named pipe; expected a file\)"):
        encoder("qwen3_vl", chat_template=str(tmp_path / "a.jinja"))


@pytest.mark.parametrize("content", ["[]", "{", '{"chat_template": 1}', "[" * 100_000])
def test_files_that_hold_no_template(content: str, encoder: Encoding, tmp_path: Path) -> None:
    """Nor is a JSON file without one taken for a template."""
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ModelError, match=r"a\.json is no JSON object with a text under 'chat_template'"):
        encoder("qwen3_vl", chat_template=str(tmp_path / "a.json"))


def test_a_broken_file(encoder: Encoding, tmp_path: Path) -> None:
    """A template that renders nothing is told before a row is read."""
    (tmp_path / "a.jinja").write_text("{% for message in messages %}{{ message['content'] ")
    encode = encoder("qwen3_vl", chat_template=str(tmp_path / "a.jinja"))
    with pytest.raises(ModelError, match=r"renders no conversation with an image .*; mend it"):
        encode.template_use()


def test_every_name_is_documented() -> None:
    """Where keys are explained, all names are listed."""
    text = (Path(__file__).parents[4] / "recipes" / "forkme.toml").read_text()
    explained = "".join(re.findall(r"(?m)^# .*$", text[: text.index("# chat_template =")])[-4:])

    assert set(re.findall(r'"(\w+)"', explained)) == set(NAMED)
