"""All rows counted: the numbers are those of training, bad rows are gathered by reason, equal ones are found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import make_recipe
from tests.training import picture
from vlora.build import load_data
from vlora.cli.main import main
from vlora.errors import LongRowError, SampleError
from vlora.facts import TemplateUse
from vlora.recipe.schema import Recipe
from vlora.recipe.sources import SourceSection
from vlora.report.census import Census, Refusal, count_rows

CheckpointFactory = Callable[[str], Path]
LIMIT = 60


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows, and two images beside them."""
    for number, size in enumerate([(40, 32), (64, 96)]):
        picture(*size, number).save(folder / f"{number}.png")
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return folder / name


GOOD: list[dict[str, Any]] = [
    {"image": "0.png", "question": "Well?", "answer": "Yes."},
    {"image": "1.png", "question": "Well?", "answer": "Yes."},
    {"question": "Well?", "answer": "It is. " * 60},
    {"image": "0.png", "question": "Well?", "answer": "Yes."},
    {"images": ["0.png", "1.png"], "question": "Well?", "answer": "No."},
]
BAD: list[dict[str, Any]] = [
    {"image": "nowhere.png", "question": "Well?", "answer": "Yes."},
    {"image": "there/2.png", "question": "Well?", "answer": "Yes."},
    {"question": "Well?", "answer": ""},
]


def last(recipe: Recipe) -> list[Census]:
    """Count all rows, and give the counts of each data set."""
    return list({id(census): census for census in count_rows(recipe)}.values())


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("long_rows", ["cut", "skip", "raise"])
def test_counts_are_those_of_training(
    long_rows: str, workers: int, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """Tokens, supervised ones, images and cuts are the sums of what training reads; nothing else is counted."""
    rows = write_rows(tmp_path, "rows.jsonl", [*GOOD, *BAD])
    keys = {"data__max_seq_length": LIMIT, "data__on_long_row": long_rows, "data__workers": workers}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **keys)
    (census,) = last(recipe)
    data, examples, n_bad, n_long = load_data(recipe), [], 0, 0
    for number in range(len(data.train)):
        try:
            examples.append(data.encoder(data.train[number]))
        except LongRowError:
            n_long += 1
        except SampleError:
            n_bad += 1

    assert census.n_seen == census.n_rows == len(GOOD + BAD)
    assert census.n_tokens == sum(len(example.tokens) for example in examples)
    assert census.n_image_tokens == sum(int(example.placeholders.sum()) for example in examples)
    assert census.n_supervised == sum(int(example.supervised.sum()) for example in examples)
    assert census.n_images == sum(len(example.image_sizes) for example in examples)
    assert census.cuts.n_rows == sum(example.cut is not None for example in examples) == (long_rows == "cut")
    assert census.left_out == n_long * (long_rows == "skip")
    assert census.n_refused == n_bad + n_long * (long_rows == "raise")


def test_what_is_found(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Rows that are refused alike are one reason, with the first of them in full; equal rows are named."""
    rows = write_rows(tmp_path, "rows.jsonl", [*GOOD, *BAD])
    valid = write_rows(tmp_path, "valid.jsonl", GOOD[:2])
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__valid_path=str(valid))
    census, validation = last(recipe)

    assert sorted(refusal.n_rows for refusal in census.refused.values()) == [1, 2]
    (alike,) = (refusal for refusal in census.refused.values() if refusal.n_rows == len(BAD) - 1)
    assert alike.first.startswith("rows.jsonl train row 5: line 6 of rows.jsonl: cannot read the image ")
    assert "nowhere.png: No such file" in alike.first
    assert (census.n_duplicates, census.first_duplicate) == (1, "rows.jsonl train row 3 equals row 0")
    assert census.longest_source == "rows.jsonl train row 2"
    assert "answer" in census.columns.used
    assert (validation.name, validation.n_rows, validation.n_refused) == ("valid.jsonl train", 2, 0)


def test_rows_that_are_held_out_have_a_name(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The rows of a `valid_fraction` are told from those that are learned."""
    rows = write_rows(tmp_path, "rows.jsonl", [{"question": "a", "answer": str(number)} for number in range(4)])
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__valid_fraction=0.5)

    names = dict.fromkeys(census.name for census in count_rows(recipe))
    assert list(names) == ["rows.jsonl train", "rows.jsonl train, held out to validate on"]


def test_the_command(checkpoint: CheckpointFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with the counts, and with status 2 if a row is bad."""
    options = [f"--model-path={checkpoint('qwen3_vl')}", "--train-on-completions"]
    good = write_rows(tmp_path, "good.jsonl", GOOD)
    assert main(["inspect", "--all", f"--dataset={good}", *options]) == 0
    printed = capsys.readouterr().out
    for line in ("rows: 5\n", "images: 5\n", "cut rows: 0\n", "duplicates: 1; first", "refused rows: 0\n"):
        assert f"  {line}" in printed
    assert printed.endswith("5 rows: no row is refused\n")
    assert "chat template: the model's own; answers end with '<|im_end|>'" in printed

    bad = write_rows(tmp_path, "bad.jsonl", [*GOOD, *BAD])
    assert main(["inspect", "--all", f"--dataset={bad}", *options]) == 2
    printed = capsys.readouterr().out
    assert "    2 such as bad.jsonl train row 5: line 6 of bad.jsonl: cannot read the image" in printed
    assert printed.endswith("8 rows: 3 cannot be learned from\n")


def test_damaged_images_are_found_where_they_are_decoded(
    checkpoint: CheckpointFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A header says nothing of what follows it: a row with half a picture is refused as training refuses it."""
    picture(96, 96, 3).save(tmp_path / "half.jpg")
    whole = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    rows = write_rows(
        tmp_path, "rows.jsonl", [row | {"image": "half.jpg"} if "image" in row else row for row in GOOD[:3]]
    )
    command = ["inspect", "--all", f"--dataset={rows}", f"--model-path={checkpoint('qwen3_vl')}"]
    assert main(command) == 0
    assert "no picture was decoded" in capsys.readouterr().out
    assert main([*command, "--decode"]) == 2
    printed = capsys.readouterr().out
    data = load_data(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out"))
    with pytest.raises(SampleError) as caught, data.train.locating(0):
        data.encoder(data.train[0])

    assert "every picture was decoded" in printed
    assert f"    2 such as {caught.value}\n" in printed
    assert printed.endswith("3 rows: 2 cannot be learned from\n")
    assert main([*command[:1], *command[2:], "--decode", "--html", str(tmp_path / "rows.html")]) == 2
    assert str(caught.value).partition(": ")[2].partition(": ")[2][:30] in (tmp_path / "rows.html").read_text()


words = st.text("abcdef", min_size=1, max_size=8)


@given(st.lists(st.tuples(words, st.integers(0, 10**6), words), min_size=1, max_size=8))
def test_reasons_do_not_depend_on_names(names: list[tuple[str, int, str]]) -> None:
    """What is quoted, numbered or a file's name makes no reason of its own."""
    census = Census(name="rows", n_rows=0, template=TemplateUse(origin="model"), method="")
    for text, number, quoted in names:
        source = f"rows row {number}"
        for problem in (
            f"{source}: cannot read the image {text}.png: No such file",
            f"{source}: cannot read the image {text}/{number}: No such file",
            f"{source}: {number} tokens exceed data.max_seq_length={number}; no {quoted!r} there",
        ):
            census._refuse(problem, source)

    assert sorted(refusal.n_rows for refusal in census.refused.values()) == [len(names), 2 * len(names)]
    assert all(isinstance(refusal, Refusal) for refusal in census.refused.values())


def test_sources_are_counted_apart(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Rows and tokens of each source of a mixture; an equal row of another source is named as its own."""
    first = write_rows(tmp_path, "first.jsonl", GOOD[:2])
    second = write_rows(tmp_path, "second.jsonl", [*GOOD[1:2], *BAD[:1]])
    recipe = make_recipe(checkpoint("qwen3_vl"), first, tmp_path / "out")
    sources = tuple(SourceSection(path=str(path)) for path in (first, second))
    (census,) = last(attrs.evolve(recipe, data=attrs.evolve(recipe.data, path=None, sources=sources)))
    found = census.by_source

    assert {name: n_rows for name, (n_rows, _) in found.items()} == {"first.jsonl train": 2, "second.jsonl train": 1}
    assert sum(n_tokens for _, n_tokens in found.values()) == census.n_tokens
    assert census.first_duplicate == "second.jsonl train row 0 equals first.jsonl train row 1"
    assert next(iter(census.refused.values())).first.startswith("second.jsonl train row 1: ")
