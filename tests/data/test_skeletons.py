"""Skeletons of conversations: answers are found where the template writes them, or the template is refused."""

import pytest
from hypothesis import given
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
from vlora.errors import SampleError

TRIMMED = CHATML.replace("message.content", "message.content | trim")


SPACED_TRIMMED = SPACED.replace("message.content", "message.content | trim")


NO_END = "{% for message in messages %}{{ message.role }}\n{{ message.content }}\n\n{% endfor %}"


UPPER = CHATML.replace("message.content", "(message.content | upper if message.role == 'assistant' else '')")


FIRST_ONLY = CHATML.replace("in messages", "in messages[:2]")


COMMENTED = CHATML + "{% if messages[-1].content == 'Yes' %}Well done!{% endif %}"


Answers = list[str]


TEMPLATES = (CHATML, TRIMMED, SPACED, SPACED_TRIMMED, SPACE_BEFORE_END, NO_END)


@given(st.sampled_from(TEMPLATES), st.lists(contents, min_size=1))
def test_exact_or_refused(template: str, answers: Answers) -> None:
    """Whatever white space answers begin and end with, the mask is exact or the row is refused by its name."""
    try:
        found = supervised_texts(template, talk(*answers))
    except SampleError as error:
        refused = str(error)
        found = None

    if found is None:
        assert refused.startswith("row 5: ")
        assert "white space" in refused
        return
    end = {SPACED: EOS, SPACED_TRIMMED: EOS, NO_END: "", SPACE_BEFORE_END: f" {END}"}.get(template, END)
    is_trimmed = template in (TRIMMED, SPACED_TRIMMED)
    written = [(answer.strip() if is_trimmed else answer) + end for answer in answers]
    # A space of the template's that the tokenizer joins with the answer belongs to its first token.
    assert [text.removeprefix(" ") for text in found] == [text.removeprefix(" ") for text in written if text]


@given(st.lists(stripped.filter(bool), min_size=1, max_size=4))
def test_template_that_strips(answers: Answers) -> None:
    """A template that strips answers is followed: what it wrote is supervised."""
    padded = [f"  {answer}\n" for answer in answers]

    assert supervised_texts(TRIMMED, talk(*padded)) == [answer + END for answer in answers]


def test_template_without_end_of_turn() -> None:
    """Without an end-of-turn token the answer alone is supervised."""
    assert supervised_texts(NO_END, talk("Yes", "No.")) == ["Yes", "No."]


@given(stripped.filter(lambda text: text.upper() != text))
def test_template_that_changes_an_answer(answer: str) -> None:
    """A template that changes an answer makes the row a bad row."""
    with pytest.raises(SampleError, match=r"row 5: the chat template changes assistant turn 1"):
        locate(UPPER, talk(answer))


def test_template_that_drops_an_answer() -> None:
    """A template that drops a turn makes the row a bad row."""
    with pytest.raises(SampleError, match=r"row 5: the chat template does not write assistant turn 2"):
        locate(FIRST_ONLY, talk("Yes", "No."))


def test_template_whose_end_depends_on_the_answers() -> None:
    """A template that writes something else because of the answers makes the row a bad row."""
    with pytest.raises(SampleError, match=r"row 5: the chat template adds text after the last turn"):
        locate(COMMENTED, talk("Yes"))


class Counting:
    """A tokenizer that counts the characters that it is given."""

    def __init__(self) -> None:
        self.n_characters = 0

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Count the texts' characters and tokenize them."""
        self.n_characters += sum(map(len, texts))
        return tokenize(texts)


@pytest.mark.parametrize("template", [CHATML, SPACED])
def test_work_grows_with_the_turns(template: str) -> None:
    """Each part of a conversation is tokenized a few times, however many turns it has."""
    for n_turns in (10, 200):
        text, spans = locate(template, talk(*["Yes, it is two."] * n_turns))
        count = Counting()

        ids, supervised = mask_completions(text, spans, count)

        assert count.n_characters <= 8 * len(text)
        assert decode(ids[supervised]).count("Yes") == n_turns == len(spans)
