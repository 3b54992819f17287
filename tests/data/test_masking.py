"""Masks, with a real tokenizer and real templates: what is supervised decodes to the answers and nothing else."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.data.chat_templates import (
    CHATML,
    END,
    EOS,
    SPACE_BEFORE_END,
    SPACED,
    contents,
    decode,
    locate,
    stripped,
    supervised_texts,
    talk,
    tokenize,
)
from vlora import mask_completions
from vlora.data.masking import expand_placeholders
from vlora.errors import SampleError


@given(st.lists(st.tuples(contents, stripped), min_size=1, max_size=4))
def test_supervised_tokens_are_the_answers(turns: list[tuple[str, str]]) -> None:
    """In one turn or many, the supervised tokens decode to the answers, each with its end-of-turn token."""
    conversation = [turn for question, answer in turns for turn in (("user", question), ("assistant", answer))]

    assert supervised_texts(CHATML, conversation) == [answer + END for _, answer in turns]


def test_space_before_an_answer_belongs_to_its_token() -> None:
    """Where the tokenizer joins the template's space with the answer, that token is supervised."""
    assert supervised_texts(SPACED, talk("Yes", "No.")) == [f" Yes{EOS}", f" No.{EOS}"]


def test_space_before_the_end_of_turn() -> None:
    """Spaces that the template writes before the end-of-turn token are supervised: the model has to write them."""
    assert supervised_texts(SPACE_BEFORE_END, talk("Yes")) == [f"Yes {END}"]


def test_questions_are_never_supervised() -> None:
    """A question with the same text as the answer is not supervised."""
    text, spans = locate(CHATML, talk("Yes", question="Yes"))

    assert [text[slice(*span)] for span in spans] == [f"Yes{END}"]
    assert spans[0][0] == text.rindex("Yes")


@pytest.mark.parametrize(("answer", "side"), [("\nYes", "start"), ("Yes\n", "end")])
def test_boundary_inside_a_token(answer: str, side: str) -> None:
    """White space that the tokenizer joins with the template's makes the row a bad row, whichever side it is on."""
    template = "{% for message in messages %}{{ message.role }}\n{{ message.content }}\n{% endfor %}"
    (newlines,) = tokenize(["\n\n"])
    assert len(newlines) == 1

    with pytest.raises(SampleError, match=rf"row 5: the {side} of .* falls inside a token"):
        supervised_texts(template, talk(answer))


@given(contents, st.data())
def test_any_spans(text: str, data: st.DataObject) -> None:
    """Spans anywhere in a text are exact or refused; without spans nothing is supervised."""
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    spans = list(zip(places[::2], places[1::2], strict=False))
    assume(text)

    ids, supervised = mask_completions(text, [], tokenize)
    assert not supervised.any()

    try:
        same, supervised = mask_completions(text, spans, tokenize, "row 5")
    except SampleError as error:
        assert str(error).startswith("row 5: ")  # noqa: PT017
        return
    assert same.tolist() == ids.tolist()
    chosen = "".join(text[start:stop] for start, stop in spans)
    assert decode(ids[supervised]).replace(" ", "") == chosen.replace(" ", "")


@st.composite
def expansions(draw: st.DrawFn) -> tuple[list[int], list[int], list[bool]]:
    """Draw plain ids, the same with every image (token 0) expanded to a run, and which of those stand for images."""
    plain: list[int] = []
    expanded: list[int] = []
    placeholders: list[bool] = []
    for segment in draw(st.lists(st.lists(st.integers(1, 8), max_size=5), min_size=1, max_size=4)):
        if placeholders or plain:
            inner = draw(st.lists(st.sampled_from([0, 9]), max_size=6))
            run = [0, *inner, 0] if inner else [0]
            plain.append(0)
            expanded += run
            placeholders += [True] * len(run)
        plain += segment
        expanded += segment
        placeholders += [False] * len(segment)
    return plain, expanded, placeholders


@given(expansions())
def test_expansion(drawn: tuple[list[int], list[int], list[bool]]) -> None:
    """Every text token is found in the processor's ids, and all others stand for images."""
    plain, expanded, expected = drawn
    assume(plain)

    positions, placeholders = expand_placeholders(np.array(plain), np.array(expanded), image_id=0)

    assert placeholders.tolist() == expected
    assert np.array(expanded)[positions].tolist() == plain
    assert (np.diff(positions) > 0).all()


@given(expansions(), st.data())
def test_processor_that_changes_the_text(drawn: tuple[list[int], list[int], list[bool]], data: st.DataObject) -> None:
    """A processor that changes a text token makes the row a bad row."""
    plain, expanded, placeholders = drawn
    texts = [index for index, is_image in enumerate(placeholders) if not is_image]
    assume(texts)
    expanded[data.draw(st.sampled_from(texts))] = 10

    with pytest.raises(SampleError, match=r"row 5: the processor's ids are not the chat template's"):
        expand_placeholders(np.array(plain), np.array(expanded), image_id=0, source="row 5")


@pytest.mark.parametrize(
    ("plain", "expanded"),
    [([1, 0, 2], [1, 2]), ([1, 2], [1, 2, 2]), ([1, 2], [1]), ([1, 0, 2, 0, 3], [1, 0, 0, 2, 3]), ([0], [])],
)
def test_processor_that_drops_or_adds(plain: list[int], expanded: list[int]) -> None:
    """A processor that drops an image or adds text makes the row a bad row."""
    with pytest.raises(SampleError, match="row 5"):
        expand_placeholders(np.array(plain), np.array(expanded), image_id=0, source="row 5")


def test_text_inside_an_image() -> None:
    """A text between two images is not taken from inside the first, even if the processor writes the same there."""
    newline, image, corner = 1, 0, 2
    picture = [corner, image, image, newline, image, image, newline, corner]

    _, placeholders = expand_placeholders(
        np.array([3, image, newline, image, 4]), np.array([3, *picture, newline, *picture, 4]), image_id=image
    )

    assert np.flatnonzero(~placeholders).tolist() == [0, 1 + len(picture), 2 + 2 * len(picture)]


def far_sighted(texts: list[str]) -> list[list[int]]:
    """Tokenize so that the first token depends on the whole text before the first full stop."""
    return [[1000 + text.partition(".")[0].count("o"), *map(ord, text[1:])] for text in texts]


def test_tokenizer_that_looks_further() -> None:
    """Where parts of a text do not tokenize as within it, bounds are tried from the beginning of the text."""
    text = "A: no\nB: yo. A: no\nB: yo."
    spans = [(text.index("yo."), text.index("yo.") + 3), (text.rindex("yo."), text.rindex("yo.") + 3)]

    ids, supervised = mask_completions(text, spans[1:], far_sighted, "row 5")

    assert ids.tolist() == far_sighted([text])[0]
    assert np.flatnonzero(supervised).tolist() == list(range(*spans[1]))
    with pytest.raises(SampleError, match=r"row 5: the start of 'yo.' falls inside a token"):
        mask_completions(text, spans, far_sighted, "row 5")


def test_search_behind_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts behind many images are found, each behind its own, without a search through the rest of the row."""
    image, n_images, n_places = 0, 300, 40
    plain = np.array([3, *[image, 4, 5] * n_images, 6])
    expanded = np.array([3, *[*[image] * n_places, 4, 5] * n_images, 6])
    searched = []

    def view(tokens: Any, width: int) -> Any:
        searched.append(len(tokens))
        return windows(tokens, width)

    windows = np.lib.stride_tricks.sliding_window_view
    monkeypatch.setattr(np.lib.stride_tricks, "sliding_window_view", view)
    positions, placeholders = expand_placeholders(plain, expanded, image_id=image)

    assert placeholders.sum() == n_images * n_places
    assert expanded[positions].tolist() == plain.tolist()
    assert 0 < sum(searched) < 2000 * n_images
