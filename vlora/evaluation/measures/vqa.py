"""VQA accuracy: how many of ten people gave the answer. Pure.

Source:
    The evaluation of VQA v2 (github.com/GT-Vision-Lab/VQA), its way to make texts alike included.
"""

import re
from collections.abc import Sequence

from ..prediction import Prediction
from .text import answers_of

LEAST_ANSWERS = 4
"""With fewer, an answer that all gave would not count as 1: three others have to have given it."""

AGREEING = 3
"""People who gave an answer that counts as 1."""

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_LONE_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")

CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll "
    "why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
"""Words that are written as they stand here where one of their apostrophes is missing."""

CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTED.split()
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}


def vqa_accuracy(prediction: Prediction) -> float | None:
    """Give min(1, people who gave the answer / 3), a mean over leaving each one out.

    Applies to rows whose column `answers` has four answers and more; VQA v2, OK-VQA and TextVQA have ten. Texts are
    made alike where people's differ.
    """
    answers = [_trim(answer) for answer in answers_of(prediction.columns)]
    if len(answers) < LEAST_ANSWERS:
        return None
    answer = _trim(prediction.answer)
    if len(set(answers)) > 1:
        answers, answer = [make_alike(each) for each in answers], make_alike(answer)
    return _agreement(answer, answers)


def _agreement(answer: str, answers: Sequence[str]) -> float:
    n_same = sum(each == answer for each in answers)
    return sum(min(1.0, (n_same - (each == answer)) / AGREEING) for each in answers) / len(answers)


def _trim(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def make_alike(text: str) -> str:
    """Write a text without punctuation, articles and case, with digits for numbers, and contractions in full."""
    whole = text
    for mark in PUNCTUATION:
        # Where a mark stands at a word's end or start anywhere in the text, no space takes its place.
        is_beside_space = f"{mark} " in whole or f" {mark}" in whole or _COMMA_IN_NUMBER.search(whole) is not None
        text = text.replace(mark, "" if is_beside_space else " ")
    words = [NUMBERS.get(word, word) for word in _LONE_PERIOD.sub("", text).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
