"""ANLS, CER and WER beside rapidfuzz and jiwer, and beside numbers that were written down."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from vlora.evaluation.measures.edits import anls, count_character_edits, count_word_edits
from vlora.evaluation.metrics import find_metrics, score
from vlora.evaluation.prediction import Prediction

# Expected, answered, ANLS, CER and WER (jiwer 4.0).
CASES = [
    ("the cat sat on the mat", "the cat sat on the mat", 1.0, 0.0, 0.0),
    ("the cat sat on the mat", "the cat is on the mat", 1 - 3 / 22, 3 / 22, 1 / 6),
    ("the cat sat on the mat", "a dog", 0.0, 19 / 22, 1.0),
    ("the cat", "the cat sat on the mat and slept", 0.0, 25 / 7, 3.0),
    (
        "the quick brown fox jumps over the lazy dog",
        "the quick brown dog jumps on the log",
        1 - 10 / 43,
        10 / 43,
        4 / 9,
    ),
    ("", "", 1.0, 0.0, 0.0),
    ("", "a cat", 0.0, 5.0, 2.0),
    ("a cat", "", 0.0, 1.0, 1.0),
    ("a", "a", 1.0, 0.0, 0.0),
    ("ab", "ba", 0.0, 1.0, 1.0),
    ("Größe und Maß", "Groesse und Mass", 1 - 6 / 16, 6 / 13, 2 / 3),
    ("猫が座っている", "猫が寝ている", 1 - 2 / 7, 2 / 7, 1.0),
    ("日本語", "日本語", 1.0, 0.0, 0.0),
    ("The Cat.", "the cat", 1 - 1 / 8, 3 / 8, 1.0),
    ("cats running", "cat runs", 1 - 5 / 12, 5 / 12, 1.0),
    ("don't do it", "do not do it", 1 - 2 / 12, 2 / 11, 2 / 3),
    ("👩‍🚀 in space", "👩‍🚀 in orbit", 1 - 5 / 12, 5 / 12, 1 / 3),
    ("x  y\tz", "x y z", 1.0, 2 / 6, 1.0),
    ("1,234.5 km", "1234.5 km", 0.9, 1 / 10, 1 / 2),
]


@pytest.mark.parametrize(("expected", "answer", "similarity", "cer", "wer"), CASES)
def test_values(expected: str, answer: str, similarity: float, cer: float, wer: float) -> None:
    """Each row has the value that its edits give."""
    prediction = Prediction(row="r:1", expected=expected, answer=answer)
    [row] = score(find_metrics(["anls", "cer", "wer"]), [prediction]).rows

    assert row == {"anls": pytest.approx(similarity), "cer": pytest.approx(cer), "wer": pytest.approx(wer)}


TEXTS = st.text("ab ßé猫.\n", max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_rates_are_those_of_jiwer(pairs: list[tuple[str, str]]) -> None:
    """Of each row, and of all rows together."""
    expected, answers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    predictions = [Prediction(row="r:1", expected=one, answer=other) for one, other in pairs]

    scores = score(find_metrics(["cer", "wer"]), predictions)

    assert [row["cer"] for row in scores.rows] == pytest.approx([jiwer.cer(*pair) for pair in pairs])
    assert [row["wer"] for row in scores.rows] == pytest.approx([jiwer.wer(*pair) for pair in pairs])
    assert scores.summary["cer"].mean == pytest.approx(jiwer.cer(expected, answers))
    assert scores.summary["wer"].mean == pytest.approx(jiwer.wer(expected, answers))


@given(TEXTS, TEXTS)
def test_anls_is_a_similarity_cut_at_a_half(expected: str, answer: str) -> None:
    """As rapidfuzz has it, of texts without case and blanks."""
    found = Levenshtein.normalized_similarity(" ".join(expected.lower().split()), " ".join(answer.lower().split()))

    assert anls(Prediction(row="r:1", expected=expected, answer=answer)) == (found if found >= 0.5 else 0.0)


def test_anls_takes_the_best_answer() -> None:
    """The example of DocVQA's kind: several spellings are right."""
    columns = {"answers": ["hello my friend", "friend", "hi"]}
    prediction = Prediction(row="r:1", expected="friend", answer="hi friend", columns=columns)

    assert anls(prediction) == pytest.approx(2 / 3)


def test_counts() -> None:
    """What is summed over rows: edits, and what was expected."""
    prediction = Prediction(row="r:1", expected="a b c", answer="a x")

    assert count_character_edits(prediction) == (3, 5)
    assert count_word_edits(prediction) == (2, 3)
