"""Rows as tokens: images as one token each, one BOS, and spans that follow the spelling of images."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.encode.conversations import BOS_BY_TOKENIZER, FAMILIES, every_family
from vlora.models import Encoder

Encoding = Callable[..., Encoder]


@every_family
def test_images_are_one_token(family: str, encoder: Encoding) -> None:
    """A text with images has each as the one token of the family, where the processor spells it."""
    tokens = encoder(family).tokens
    (ids,) = tokens([tokens.spell(f"a{tokens.image_token}b{tokens.image_token}")])

    assert ids.count(tokens.image_id) == 2


@every_family
def test_texts_begin_with_one_bos(family: str, encoder: Encoding) -> None:
    """However often the template has written a BOS, one is left, and spans move with the text."""
    tokens = encoder(family).tokens
    bos, body = tokens._bos, "question answer"

    for n_written in (0, 1, 2):
        shift = n_written * len(bos)
        found, ((start, end),) = tokens.with_one_bos(n_written * bos + body, [(9 + shift, 15 + shift)])
        assert found[start:end] == "answer"
        assert found == bos + body or (n_written == 0 and found == body)


@pytest.mark.parametrize("family", sorted({"gemma3", "idefics2", "qwen2_vl", "llava"} & set(FAMILIES)))
@given(pieces=st.lists(st.sampled_from(["<>", "a", " ", "b\n"]), min_size=1, max_size=8), data=st.data())
def test_spans_follow_the_spelling(family: str, encoder: Encoding, pieces: list[str], data: st.DataObject) -> None:
    """A span of the text holds the same words once images are written as the processor writes them."""
    tokens = encoder(family).tokens
    text = "".join(tokens.image_token if piece == "<>" else piece for piece in pieces)
    bounds = [
        sum(len(tokens.image_token if piece == "<>" else piece) for piece in pieces[:n]) for n in range(len(pieces) + 1)
    ]
    start = data.draw(st.integers(0, len(pieces)))
    stop = data.draw(st.integers(start, len(pieces)))
    spelled = tokens.spell(text)
    ((first, last),) = tokens.spell_spans(text, [(bounds[start], bounds[stop])])

    kept = spelled[first:last]
    for piece in set(pieces[start:stop]) - {"<>"}:
        assert piece.strip() in kept
    assert tokens.spell(text[bounds[start] : bounds[stop]]).strip() == kept.strip()


@pytest.mark.parametrize("family", sorted(set(BOS_BY_TOKENIZER) & set(FAMILIES)))
def test_a_bos_of_the_tokenizers_own(family: str, encoder: Encoding) -> None:
    """A BOS at the beginning of a text is the one token, and what follows is as the tokenizer begins a text."""
    tokens = encoder(family).tokens
    bos = tokens.tokenizer.bos_token

    (with_bos, without) = tokens.behind_bos([f"{bos}What is it?", "What is it?"])

    assert with_bos == [tokens.tokenizer.bos_token_id, *without]


@every_family
def test_markers_are_tokens_around_images(family: str, encoder: Encoding) -> None:
    """The image token is a marker; words are none."""
    tokens = encoder(family).tokens
    (words,) = tokens(["What is it?"])

    assert tokens.is_marker(np.array([tokens.image_id], dtype=np.int32)).all()
    assert not tokens.is_marker(np.array(words, dtype=np.int32)).any()
