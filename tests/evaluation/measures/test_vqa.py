"""VQA accuracy beside what the official script of VQA v2 gives."""

import pytest

from vlora.evaluation.measures.vqa import CONTRACTIONS, make_alike, vqa_accuracy
from vlora.evaluation.prediction import Prediction

# Answers and how many people gave them, the model's, as github.com/GT-Vision-Lab/VQA (a013f00) says.
CASES: list[tuple[dict[str, int], str, float]] = [
    ({"yes": 10}, "yes", 1.0),
    ({"yes": 10}, "Yes", 0.0),
    ({"yes": 9, "no": 1}, "Yes.", 1.0),
    ({"yes": 3, "no": 7}, "yes", 0.9),
    ({"yes": 2, "no": 8}, "yes", 0.6),
    ({"yes": 1, "no": 9}, "yes", 0.3),
    ({"no": 10}, "yes", 0.0),
    ({"2": 5, "two": 5}, "Two", 1.0),
    ({"a cat": 5, "cat": 5}, "the cat", 1.0),
    ({"dont know": 4, "don't know": 6}, "dont know", 1.0),
    ({"1,000": 5, "1000": 5}, "1,000", 1.0),
    ({"red-blue": 4, "red blue": 6}, "red blue", 1.0),
    ({"u.s.": 4, "us": 6}, "U.S", 1.0),
    ({"": 4, "x": 6}, "", 1.0),
    ({"yes": 10}, "", 0.0),
    ({"café": 3, "cafe": 7}, "Café", 0.9),
    ({"猫": 4, "犬": 6}, "猫。", 0.0),
    ({"猫": 4, "犬": 6}, "猫", 1.0),
    ({"none": 3, "0": 2, "zero": 1, "x": 4}, "0", 1.0),
    ({"3.5": 4, "3.5 m": 6}, "3.5", 1.0),
    ({"yes": 2, "no": 2}, "no", 0.5),
    ({"'ows'at": 4, "x": 6}, "'ow'sat", 1.0),
    ({" yes\n": 4, "no\t": 6}, "yes", 1.0),
]


@pytest.mark.parametrize(("counts", "answer", "value"), CASES)
def test_vqa_accuracy(counts: dict[str, int], answer: str, value: float) -> None:
    """With texts, and with objects as VQA's files have them."""
    answers = [text for text, n_people in counts.items() for _ in range(n_people)]
    objects = [
        {"answer": text, "answer_id": place, "answer_confidence": "yes"} for place, text in enumerate(answers, 1)
    ]

    for column in (answers, objects):
        prediction = Prediction(row="r:1", expected=answers[0], answer=answer, columns={"answers": column})
        assert vqa_accuracy(prediction) == pytest.approx(value)


@pytest.mark.parametrize("columns", [{}, {"answers": ["yes"] * 3}, {"answers": "yes"}, {"answers": [1, 2, 3, 4, 5]}])
def test_rows_without_people_are_left_out(columns: dict[str, object]) -> None:
    """Three answers cannot make a 1."""
    assert vqa_accuracy(Prediction(row="r:1", expected="yes", answer="yes", columns=columns)) is None


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("A cat, and the dog!", "cat and dog"),
        ("It's an umbrella", "it's umbrella"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("e.g. 3.5", "eg 3.5"),
        ("red/blue", "red blue"),
        ("red/ blue", "red blue"),
        ("x,y z", "x y z"),
        ("Ten", "10"),
    ],
)
def test_make_alike(text: str, alike: str) -> None:
    """The official script's way, its oddities included."""
    assert make_alike(text) == alike


def test_contractions_are_those_of_the_script() -> None:
    """It has 114 of them that a text in small letters can have."""
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["oclock"] == "o'clock"
    assert CONTRACTIONS["twas"] == "'twas"
