"""BLEU, chrF and ROUGE-L beside sacrebleu and rouge-score, and beside numbers that were written down."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from vlora.evaluation.bootstrap import find_intervals
from vlora.evaluation.measures.ngrams import rouge_l
from vlora.evaluation.metrics import METRICS, find_metrics, score
from vlora.evaluation.prediction import Prediction

# Expected, answered, BLEU and chrF (sacrebleu 2.6, of one sentence), ROUGE-L (rouge-score 0.1.2; None: left out).
CASES = [
    ("the cat sat on the mat", "the cat sat on the mat", 100.0, 100.0, 1.0),
    ("the cat sat on the mat", "the cat is on the mat", 37.991784, 61.925151, 0.833333),
    ("the cat sat on the mat", "a dog", 0.0, 3.472222, 0.0),
    ("the cat", "the cat sat on the mat and slept", 11.044796, 47.000063, 0.4),
    (
        "the quick brown fox jumps over the lazy dog",
        "the quick brown dog jumps on the log",
        21.573653,
        52.863618,
        0.588235,
    ),
    ("", "", 0.0, 0.0, 0.0),
    ("", "a cat", 0.0, 0.0, 0.0),
    ("a cat", "", 0.0, 0.0, 0.0),
    ("a", "a", 100.0, 100.0, 1.0),
    ("ab", "ba", 0.0, 50.0, 0.0),
    ("Größe und Maß", "Groesse und Mass", 27.51606, 40.615152, 0.285714),
    ("Größe und Maß", "Größe und Maß", 100.0, 100.0, 1.0),
    ("猫が座っている", "猫が寝ている", 0.0, 24.349795, None),
    ("日本語", "日本語", 100.0, 100.0, None),
    ("The Cat.", "the cat", 0.0, 15.551463, 1.0),
    ("cats running", "cat runs", 0.0, 22.75598, 1.0),
    ("a b c d e f g h", "h g f e d c b a", 9.287529, 16.666667, 0.125),
    ("don't do it", "do not do it", 31.947155, 45.727513, 0.5),
    ("👩‍🚀 in space", "👩‍🚀 in orbit", 55.032121, 29.530423, 0.5),
    ("x  y\tz", "x y z", 100.0, 100.0, 1.0),
    ("1,234.5 km", "1234.5 km", 50.0, 70.940354, 0.571429),
]


@pytest.mark.parametrize(("expected", "answer", "bleu", "chrf", "rouge"), CASES)
def test_values(expected: str, answer: str, bleu: float, chrf: float, rouge: float | None) -> None:
    """Each row has the value that the libraries give a sentence."""
    prediction = Prediction(row="r:1", expected=expected, answer=answer)
    [row] = score(find_metrics(["bleu", "chrf", "rouge_l"]), [prediction]).rows

    assert row["bleu"] == pytest.approx(bleu, abs=1e-6)
    assert row["chrf"] == pytest.approx(chrf, abs=1e-6)
    assert row.get("rouge_l") == (None if rouge is None else pytest.approx(rouge, abs=1e-6))


def test_all_rows_are_one_text() -> None:
    """BLEU and chrF of a corpus are no means of rows."""
    predictions = [Prediction(row="r:1", expected=case[0], answer=case[1]) for case in CASES]

    summary = score(find_metrics(["bleu", "chrf"]), predictions).summary

    assert summary["bleu"].mean == pytest.approx(29.58403392, abs=1e-6)
    assert summary["chrf"].mean == pytest.approx(50.44053696, abs=1e-6)


def test_several_right_answers() -> None:
    """The example of sacrebleu's README: BLEU 48.53, chrF2 59.73."""
    answers = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    predictions = [
        Prediction(row="r:1", expected=given[0], answer=answer, columns={"answers": given})
        for answer, given in zip(answers, references, strict=True)
    ]

    summary = score(find_metrics(["bleu", "chrf"]), predictions).summary

    assert summary["bleu"].mean == pytest.approx(48.53, abs=0.005)
    assert summary["chrf"].mean == pytest.approx(59.73, abs=0.005)


WORDS = st.lists(st.sampled_from("the cat sat on a mat 猫 ü 12 , . it's straße".split()), max_size=9).map(" ".join)  # noqa: SIM905


@settings(max_examples=60)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_values_are_those_of_the_libraries(pairs: list[tuple[str, str]]) -> None:
    """Of each row, and of all rows together."""
    expected, answers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    predictions = [Prediction(row="r:1", expected=one, answer=other) for one, other in pairs]
    bleu, chrf, rouge = BLEU(effective_order=True), CHRF(), RougeScorer(["rougeL"], use_stemmer=True)

    scores = score(find_metrics(["bleu", "chrf", "rouge_l"]), predictions)

    assert scores.summary["bleu"].mean == pytest.approx(BLEU().corpus_score(answers, [expected]).score)
    assert scores.summary["chrf"].mean == pytest.approx(CHRF().corpus_score(answers, [expected]).score)
    for (reference, answer), row in zip(pairs, scores.rows, strict=True):
        assert row["bleu"] == pytest.approx(bleu.sentence_score(answer, [reference]).score)
        assert row["chrf"] == pytest.approx(chrf.sentence_score(answer, [reference]).score)
        assert row.get("rouge_l", 0.0) == pytest.approx(rouge.score(reference, answer)["rougeL"].fmeasure)


def test_the_interval_of_bleu_is_of_drawn_corpora() -> None:
    """It is near that of sacrebleu's own bootstrap, which draws other rows."""
    pairs = [(f"the cat sat on mat {n % 7} today", f"the cat sat on mat {n % 5} now") for n in range(60)]
    predictions = [Prediction(row="r:1", expected=one, answer=other) for one, other in pairs]
    theirs = BLEU().corpus_score([pair[1] for pair in pairs], [[pair[0] for pair in pairs]], n_bootstrap=1000)
    expected_width = 2 * vars(theirs)["_ci"]

    low, high = find_intervals(METRICS["bleu"].measure(predictions).sums)["bleu"]

    assert low < theirs.score < high
    assert high - low == pytest.approx(expected_width, rel=0.15)


def test_rouge_takes_the_best_answer() -> None:
    """And reads no other scripts than ASCII, so that a row without any is left out rather than wrong."""
    columns = {"answers": ["a dog", "the red cat"]}

    assert rouge_l(Prediction(row="r:1", expected="a dog", answer="red cat", columns=columns)) == pytest.approx(0.8)
    assert rouge_l(Prediction(row="r:1", expected="猫", answer="cat")) is None
