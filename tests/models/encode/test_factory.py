"""Encoders of models: which token stands for an image, and models or recipes that cannot be encoded for."""

from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from tests.models.encode.test_seq2seq import tokenizer
from vlora.errors import ModelError
from vlora.models import describe_family, make_encoder
from vlora.models.encode.seq2seq import PairEncoder
from vlora.recipe.schema import DataSection

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PAGE = 4


def processor_of(**attributes: Any) -> Any:
    """Make what a processor has at least: a tokenizer with a chat template."""
    made = tokenizer()
    made.chat_template = TEMPLATE
    return SimpleNamespace(tokenizer=made, **attributes)


@pytest.mark.parametrize(
    ("attributes", "config"),
    [
        ({"image_token": "<page>"}, {}),
        ({"image_token": "<page>", "image_token_id": PAGE}, {"image_token_id": 0}),
        ({}, {"image_token_id": PAGE}),
        ({}, {"image_token_index": PAGE}),
        ({"image_token": "<page>"}, {"image_token_index": PAGE}),
    ],
)
def test_the_image_token_is_found(attributes: dict[str, Any], config: dict[str, Any]) -> None:
    """The processor's own token comes first, then the configuration's; text and id follow from each other."""
    encode = make_encoder(processor_of(**attributes), config, describe_family("llava"), DataSection(path="x"))

    assert (encode.image_token, encode.image_id) == ("<page>", PAGE)


def test_a_model_without_an_image_token() -> None:
    """A model of which nothing names an image token is refused."""
    with pytest.raises(ModelError, match=r"names no image token \(image_token_id\)"):
        make_encoder(processor_of(), {}, describe_family("llava"), DataSection(path="x"))


def test_prompts_of_prefix_language_models_cannot_be_learned() -> None:
    """A model whose prompts are not causal needs `data.train_on_completions`."""
    with pytest.raises(ModelError, match=r"^data\.train_on_completions: .*set it to true"):
        make_encoder(processor_of(image_token="<page>"), {}, describe_family("paligemma"), DataSection(path="x"))


def test_pairs_take_no_chat_template() -> None:
    """An encoder-decoder has its own encoder, and a recipe with a chat template is refused."""
    data = DataSection(path="x", train_on_completions=True)
    encode = make_encoder(processor_of(), {}, describe_family("florence2"), data)

    assert isinstance(encode, PairEncoder)
    with pytest.raises(ModelError, match=r"^data\.chat_template: found 'chatml', .*leave it out"):
        make_encoder(processor_of(), {}, describe_family("florence2"), attrs.evolve(data, chat_template="chatml"))


def test_the_decoders_first_token_is_the_configurations() -> None:
    """The decoder begins with the token that the configuration, or its part for text, names."""
    data = DataSection(path="x", train_on_completions=True)
    family = describe_family("florence2")
    configs: list[dict[str, Any]] = [{"decoder_start_token_id": 3}, {"text_config": {"decoder_start_token_id": 3}}, {}]
    starts = []
    for config in configs:
        encode = make_encoder(processor_of(), config, family, data)
        assert isinstance(encode, PairEncoder)
        starts.append(encode.decoder_start)

    assert starts == [3, 3, 2]
