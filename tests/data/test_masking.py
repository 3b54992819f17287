"""Masks, with a real tokenizer and real templates: what is supervised decodes to the answers and nothing else."""

import functools
from typing import Any

import jinja2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.checkpoints import GPT4_WORDS
from vlora import mask_completions
from vlora.data.masking import Span, expand_placeholders, leading_end_of_turn
from vlora.data.skeletons import find_marks, hide_answers, locate_runs
from vlora.errors import SampleError
from vlora.types import Turn

END, EOS, IMAGE = "<|im_end|>", "</s>", "<image>"
SPECIAL = ("<|im_start|>", END, EOS, IMAGE)
END_OF_TURN = (END, EOS)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMED = CHATML.replace("message.content", "message.content | trim")
SPACED = (
    "{% for message in messages %}{{ message.role | upper }}: {{ message.content }}"
    "{{ eos if message.role == 'assistant' else ' ' }}{% endfor %}"
)
SPACED_TRIMMED = SPACED.replace("message.content", "message.content | trim")
SPACE_BEFORE_END = CHATML.replace("{{ message.content }}", "{{ message.content }} ")
NO_END = "{% for message in messages %}{{ message.role }}\n{{ message.content }}\n\n{% endfor %}"
UPPER = CHATML.replace("message.content", "(message.content | upper if message.role == 'assistant' else '')")
FIRST_ONLY = CHATML.replace("in messages", "in messages[:2]")
COMMENTED = CHATML + "{% if messages[-1].content == 'Yes' %}Well done!{% endif %}"

Answers = list[str]
Conversation = list[tuple[str, str]]


@functools.cache
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["user assistant\n\nNo. Yes. No. The answer is two. What is it?\n"] * 8, trainer)
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made


def tokenize(texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer().encode_batch(texts, add_special_tokens=False)]


def decode(ids: Any) -> str:
    return tokenizer().decode([int(token) for token in ids], skip_special_tokens=False)


def render(template: str, conversation: Conversation) -> str:
    messages = [{"role": role, "content": content} for role, content in conversation]
    return jinja2.Environment(autoescape=False).from_string(template).render(messages=messages, eos=EOS)


def to_turns(conversation: Conversation) -> list[Turn]:
    return [Turn(role, (content,)) for role, content in conversation]


def locate(template: str, conversation: Conversation) -> tuple[str, list[Span]]:
    """Do what the encoder does: render with answers, render with sentinels, find the answers."""
    hidden, runs = hide_answers(to_turns(conversation), find_marks(template))
    text, skeleton = render(template, conversation), render(template, [(turn.role, turn.text) for turn in hidden])
    places = locate_runs(text, skeleton, runs, "row 5")
    return text, [(place.start, place.end + len(leading_end_of_turn(place.follows, END_OF_TURN))) for place in places]


def supervised_texts(template: str, conversation: Conversation) -> list[str]:
    """Decode each run of supervised tokens; the ids have to be those of the whole text."""
    text, spans = locate(template, conversation)
    ids, supervised = mask_completions(text, spans, tokenize, "row 5")

    assert ids.tolist() == tokenize([text])[0]
    assert (ids.dtype.name, supervised.dtype.name, supervised.shape) == ("int32", "bool", ids.shape)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], supervised, [False]])))
    return [decode(ids[start:stop]) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def talk(*answers: str, question: str = "What is it?") -> Conversation:
    return [turn for answer in answers for turn in (("user", question), ("assistant", answer))]


plain_texts = st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=12)
likely_words = ["Yes", "No.", " ", "\n", "two", "assistant", "user", "é", "🙂", ":", "!"]
likely_texts = st.lists(st.sampled_from(likely_words)).map("".join)
contents = (plain_texts | likely_texts).filter(lambda text: not any(token in text for token in SPECIAL))
stripped = contents.map(str.strip)


@given(st.lists(st.tuples(contents, stripped), min_size=1, max_size=4))
def test_supervised_tokens_are_the_answers(turns: list[tuple[str, str]]) -> None:
    """In one turn or many, the supervised tokens decode to the answers, each with its end-of-turn token."""
    conversation = [turn for question, answer in turns for turn in (("user", question), ("assistant", answer))]

    assert supervised_texts(CHATML, conversation) == [answer + END for _, answer in turns]


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


def test_space_before_an_answer_belongs_to_its_token() -> None:
    """Where the tokenizer joins the template's space with the answer, that token is supervised."""
    assert supervised_texts(SPACED, talk("Yes", "No.")) == [f" Yes{EOS}", f" No.{EOS}"]


def test_space_before_the_end_of_turn() -> None:
    """Spaces that the template writes before the end-of-turn token are supervised: the model has to write them."""
    assert supervised_texts(SPACE_BEFORE_END, talk("Yes")) == [f"Yes {END}"]


def test_template_without_end_of_turn() -> None:
    """Without an end-of-turn token the answer alone is supervised."""
    assert supervised_texts(NO_END, talk("Yes", "No.")) == ["Yes", "No."]


def test_questions_are_never_supervised() -> None:
    """A question with the same text as the answer is not supervised."""
    text, spans = locate(CHATML, talk("Yes", question="Yes"))

    assert [text[slice(*span)] for span in spans] == [f"Yes{END}"]
    assert spans[0][0] == text.rindex("Yes")


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
