"""Which template writes the rows: the recipe's, the model's own, or vlora's for the family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.encode.template.test_named import ROW, TALK, Encoding, learned
from tests.models.encode.test_seq2seq import encoder as pair_encoder
from vlora import models
from vlora.cli.sentences import describe_template
from vlora.errors import ModelError
from vlora.models import Encoder
from vlora.recipe.schema import DataSection, ModelSection


def without_template(folder: Path) -> Any:
    """Load a model's processor as if it had been published without a chat template."""
    section = ModelSection(path=str(folder))
    files = models.find_model(section)
    processor = models.load_processor(files, section)
    processor.chat_template = processor.tokenizer.chat_template = None
    return files, processor


def test_a_model_without_a_template(checkpoint: Callable[[str], Path]) -> None:
    """It is refused with the names of those that there are, and trained with one of them."""
    files, processor = without_template(checkpoint("smolvlm"))

    def make(**keys: Any) -> Encoder:
        return models.make_encoder(processor, files.config, files.family, DataSection(path="x", **keys))

    with pytest.raises(ModelError, match=r"no chat template; set data\.chat_template to .*'chatml', .*'plain', or a"):
        make()
    encode = make(chat_template="llava", train_on_completions=True)
    assert learned(encode(ROW), encode) == [f"{turn.text}<end_of_utterance>" for turn in TALK[1::2]]
    assert describe_template(encode.template_use()) == "'llava'; answers end with '<end_of_utterance>' (data.learn_end)"


def test_pairs_have_no_conversations() -> None:
    """Where a decoder answers one task there is nothing to write."""
    with pytest.raises(ModelError, match=r"data\.chat_template: found 'plain', and this model holds no conversations"):
        pair_encoder("florence2", chat_template="plain")
    assert describe_template(pair_encoder("florence2").template_use()).startswith("none")


@pytest.mark.parametrize(
    ("family", "keys", "expected"),
    [
        ("qwen2_vl", {}, "the model's own; answers end with '<|im_end|>'"),
        ("llava", {}, "the model's own; answers end with '</s>' (data.learn_end)"),
        ("glm4v", {"learn_end": False}, "the model's own; answers end as it writes them (data.learn_end)"),
        ("llava_onevision", {}, "of vlora for this family; answers end with '<|im_end|>'"),
        ("qwen2_vl", {"assistant_id": 5}, "the model's own; answers end with '<|im_end|>'; data.assistant_id is not"),
    ],
)
def test_what_is_used_is_said(family: str, keys: dict[str, Any], expected: str, encoder: Encoding) -> None:
    """One line says whose template it is, and how answers end."""
    assert describe_template(encoder(family, **keys).template_use()).startswith(expected)
