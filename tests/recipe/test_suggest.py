"""The recipe that is written for rows: right keys, right numbers, for small and large sets and any machine."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.recipe.parse import parse_recipe
from vlora.recipe.suggest import FitFacts, RowFacts, ask_about_classes, estimate_tokens, suggest_recipe

ROWS = RowFacts(path="rows.jsonl", n_rows=1000, n_words=2, n_answer_tokens=15, n_read=64)
FIT = FitFacts(n_tokens=600, batch_size=4, peak_gb=9.0, memory_gb=16.0)


def test_numbers_follow_from_the_facts() -> None:
    """Held-out rows, steps, lengths and answers of a set of a thousand short answers."""
    recipe = parse_recipe(suggest_recipe(ROWS, "some/model", FIT, "runs/x"))

    assert (recipe.model.path, recipe.data.path, recipe.output.path) == ("some/model", "rows.jsonl", "runs/x")
    assert (recipe.data.valid_fraction, recipe.data.max_seq_length) == (0.05, 768)
    assert (recipe.train.batch_size, recipe.train.gradient_accumulation_steps, recipe.train.epochs) == (4, 2, 3)
    assert recipe.train.steps_per_eval == 375 // 12
    assert (recipe.eval.answer_rows, recipe.eval.max_new_tokens) == (50, 16)
    assert recipe.output.keep_best == "valid_loss"


def test_reasons_are_beside_the_keys() -> None:
    """The memory, the longest row, and what is not known."""
    assert "# a step needs 9.0 of 16.0 GB by the plan" in suggest_recipe(ROWS, "m", FIT, "o")
    assert "take a smaller model" in suggest_recipe(ROWS, "m", attrs.evolve(FIT, fits=False), "o")
    some = suggest_recipe(attrs.evolve(ROWS, unused=("id", "n\note")), "m", FIT, "o")
    assert '\npath = "rows.jsonl"  # columns that are not used: id, n ote\n' in some
    unknown = suggest_recipe(ROWS, "m", "the hub cannot be reached", "o")
    assert "# what fits was not found out" in unknown
    assert "max_seq_length" not in unknown
    assert all(len(line) <= 110 for line in unknown.splitlines())


@pytest.mark.parametrize(
    ("n_tokens", "n_new", "said"),
    [(1, 16, "the longest answer fits"), (17, 32, "the longest"), (1025, 1024, "are cut")],
)
def test_answers_have_room(n_tokens: int, n_new: int, said: str) -> None:
    """Or it is said that they do not."""
    text = suggest_recipe(attrs.evolve(ROWS, n_answer_tokens=n_tokens), "m", FIT, "o")

    assert f"max_new_tokens = {n_new}  # " in text
    assert said in text


@pytest.mark.parametrize(
    ("text", "n_tokens"), [("", 1), ("a red car", 6), ("[17, 4]", 8), ("2024-03-05", 11), ("größe", 5), ("赤い車", 6)]
)
def test_tokens_are_estimated(text: str, n_tokens: int) -> None:
    """Digits and signs may be tokens of their own, and so may letters of other alphabets."""
    assert estimate_tokens(text) == n_tokens


def test_metrics_fit_the_answers() -> None:
    """Boxes overlap, and objects have fields."""
    boxes = parse_recipe(suggest_recipe(attrs.evolve(ROWS, kind="boxes"), "m", FIT, "o"))
    objects = parse_recipe(suggest_recipe(attrs.evolve(ROWS, kind="json"), "m", FIT, "o"))

    assert list(boxes.eval.metrics) == ["box_iou", "box_acc_50"]
    assert list(objects.eval.metrics) == ["json_valid", "json_fields"]


@pytest.mark.parametrize(("n_rows", "epochs", "held_out"), [(3, 3, 0), (10, 3, 1), (5_000, 2, 250), (10**6, 1, 500)])
def test_the_size_of_a_set_decides(n_rows: int, epochs: int, held_out: int) -> None:
    """Few rows are seen more often, and of many rows not more are held out than a validation reads."""
    recipe = parse_recipe(suggest_recipe(attrs.evolve(ROWS, n_rows=n_rows), "m", FIT, "o"))

    assert recipe.train.epochs == epochs
    assert round(recipe.data.valid_fraction * n_rows) == pytest.approx(held_out, rel=0.21)
    assert (recipe.output.keep_best is None) == (held_out == 0)


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.sampled_from(
        [{}, {"foto": "image"}, {'a "b"': "question", "x.y": "image"}, {"größe": "image", "foto": "image"}]
    ),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5),
)
def test_any_names_are_written_as_toml(path: str, columns: dict[str, str], classes: list[str]) -> None:
    """Quotes, dots, line ends and braces in paths, columns and classes come back as they were."""
    question = ask_about_classes(classes) if classes else None
    rows = attrs.evolve(ROWS, path=path, columns=columns, question=question, answer="label" if question else None)
    rows = attrs.evolve(rows, reasons=dict.fromkeys(columns, "by its name"), unused=(*classes, path))
    recipe = parse_recipe(suggest_recipe(rows, "m", FIT, "runs/x"))

    assert recipe.data.path == path
    kept = {name: what for name, what in columns.items() if what == "image" or not question}
    assert dict(recipe.data.columns) == kept
