"""Chat templates and a tokenizer for the tests of masks and skeletons."""

import functools
from typing import Any

import jinja2
import numpy as np
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.checkpoints import GPT4_WORDS
from vlora import mask_completions
from vlora.data.masking import Span, leading_end_of_turn
from vlora.data.skeletons import find_marks, hide_answers, locate_runs
from vlora.types import Turn

Conversation = list[tuple[str, str]]

END, EOS, IMAGE = "<|im_end|>", "</s>", "<image>"

SPECIAL = ("<|im_start|>", END, EOS, IMAGE)


END_OF_TURN = (END, EOS)


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


SPACED = (
    "{% for message in messages %}{{ message.role | upper }}: {{ message.content }}"
    "{{ eos if message.role == 'assistant' else ' ' }}{% endfor %}"
)


SPACE_BEFORE_END = CHATML.replace("{{ message.content }}", "{{ message.content }} ")


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
