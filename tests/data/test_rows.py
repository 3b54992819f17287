"""Rows from every kind of data set, written by this test and read from another working directory."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from tests.data.data_sets import (
    N_ROWS,
    describe,
    make_dataset,
    picture,
    picture_bytes,
    question_rows,
    read,
    write_jsonl,
    write_pictures,
    write_source,
)
from vlora import models
from vlora.cli.sentences import describe_columns
from vlora.data.format.samples import Reading
from vlora.data.opening import read_rows
from vlora.data.rows import RowDataset
from vlora.errors import SampleError
from vlora.recipe.schema import DataSection

Encoding = Callable[..., models.Encoder]


def test_image_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are taken from the file's folder first, then from the working directory; absolute ones are as they are."""
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    picture(0).save(folder / "both.png")
    picture(1).save("both.png")
    picture(2).save("here.png")
    picture(3).save(tmp_path / "absolute.png")
    names = ["both.png", "here.png", str(tmp_path / "absolute.png")]
    path = write_jsonl(folder / "rows.jsonl", [{"image": name, "question": "q", "answer": "a"} for name in names])

    assert [numbers for _, _, numbers in describe(read(path))] == [[0], [2], [3]]


def test_several_images_and_none(tmp_path: Path) -> None:
    """Rows with several images, one, and none stand together in one file."""
    write_pictures(tmp_path / "p")
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    images = [["p/0.png", "p/1.png"], [], ["p/2.png"], None]
    rows = [{"images": row, "messages": messages} for row in images]

    found = describe(read(write_jsonl(tmp_path / "rows.jsonl", rows)))

    assert [numbers for _, _, numbers in found] == [[0, 1], [], [2], []]


def test_images_inside_the_messages(tmp_path: Path) -> None:
    """Image paths inside the messages are taken from the file's folder too, None-filled parts and all."""
    write_pictures(tmp_path / "p")
    content = [{"type": "image", "image": "p/3.png"}, {"type": "text", "text": "What?"}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "3"}]},
    ]
    (found,) = describe(read(write_jsonl(tmp_path / "rows.jsonl", [{"messages": messages}])))

    assert found == ("What?", "3", [3])


def test_list_of_images_in_parquet(tmp_path: Path) -> None:
    """Parquet with a list of images per row, as TRL writes it, gives each row its images."""
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
        }
    )
    messages = [{"role": "user", "content": "<image>q<image>"}, {"role": "assistant", "content": "a"}]
    images = [{"bytes": picture_bytes(number), "path": None} for number in (2, 1)]
    table = datasets.Dataset.from_list([{"images": images, "messages": messages}], features=features)
    table.to_parquet(tmp_path / "rows.parquet")

    assert describe(read(tmp_path / "rows.parquet")) == [("q", "a", [2, 1])]


def test_columns_of_a_recipe(tmp_path: Path) -> None:
    """A recipe maps columns and gives a system prompt; what became of columns is told of the rows that were read."""
    row = {"ask": "?", "reply": "x", "notes": "n"}
    table = [row, {**row, "pic": "a.png", "id": "3"}, {**row, "more": "m"}]
    reading = Reading(columns={"ask": "question", "reply": "answer", "pic": "images"}, system="Be brief.")
    rows = RowDataset(name="rows", table=table, indices=range(3), folder=tmp_path, reading=reading)

    assert [turn.text for turn in rows[0].turns] == ["Be brief.", "?", "x"]
    assert describe_columns(rows.columns()).endswith("not used: notes; of data.columns in no row so far: pic")
    assert rows[1].images == (str(tmp_path / "a.png"),)
    assert describe_columns(rows.columns()) == (
        "ask (as question: the question), reply (as answer: the answer), pic (as images); not used: id, notes"
    )


def test_custom_prompt_format(tmp_path: Path) -> None:
    """A recipe's prompt format reads columns of other names."""
    rows = [{"caption": "A cat.", "topic": "cats"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    prompt = json.dumps({"user": "Say something about {topic}.", "assistant": "{caption}"})

    assert describe(read(path, custom_prompt_format=prompt)) == [("Say something about cats.", "A cat.", [])]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("rows.jsonl", '{"question": "q", "answer": "a"}\n{"question": "q"}\n{"question": "q", "answer": ""}', (2, 3)),
        ("rows.json", '[\n {"question": "q", "answer": "a"},\n\n {"question":\n "q"}, {"question": "q"}\n]', (4, 5)),
        ("rows.csv", 'question,answer\n"a\nb",c\n"q\nr",\nq,\n', (4, 6)),
    ],
)
def test_rows_are_found_by_their_lines(
    name: str, text: str, lines: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a row names the line on which it begins, however many there are, and however the file is read."""
    monkeypatch.setattr("vlora.data.readers.text_table.CHUNK_BYTES", 16)
    (tmp_path / name).write_text(text)
    rows = read(tmp_path / name)

    assert rows[0].turns[1].text in ("a", "c")
    for number, line in zip((1, 2), lines, strict=True):
        with pytest.raises(SampleError, match=rf"^{name} train row {number}: line {line} of {name}: "):
            rows[number]
        said = f"{name} train row {number}: "
        with pytest.raises(SampleError, match=rf"^{said}line {line} of {name}: too long$"), rows.locating(number):
            raise SampleError(said + "too long")


def test_rows_without_lines_are_named_by_their_number() -> None:
    """Rows that a list holds stand in no file."""
    rows = RowDataset(name="rows", table=[{"question": "q"}], indices=range(1))
    with pytest.raises(SampleError, match=r"^rows row 0: columns question"):
        rows[0]


def test_lines_of_joined_files(tmp_path: Path) -> None:
    """Each file counts its own lines, also within a mixture of files."""
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"question": "q", "answer": "a"}, {"question": name}])
    rows, _ = read_rows(DataSection(path=str(tmp_path / "*.jsonl")))
    for number, name in ((1, "a"), (3, "b")):
        with pytest.raises(SampleError, match=rf"line 2 of {name}\.jsonl: columns question hold no conversation"):
            rows[number]


def test_broken_line(tmp_path: Path) -> None:
    """A line that is no row is one row's error, with the row's number and the line's."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n\n[1]\n{"question": "p", "answer": "b"}\n')
    rows = read(path)

    assert [rows[number].turns[1].text for number in (0, 3)] == ["a", "b"]
    with pytest.raises(SampleError, match=r"^rows\.jsonl train row 1: line 2 of rows\.jsonl: the line is blank"):
        rows[1]
    with pytest.raises(SampleError, match=r"^rows\.jsonl train row 2: line 3 of rows\.jsonl: found a list"):
        rows[2]


def test_missing_image(tmp_path: Path, encoder: Encoding) -> None:
    """An image that is not there is one row's error, when that row is encoded, with its number and path."""
    path = write_source("jsonl", tmp_path)
    (tmp_path / "pictures" / "2.png").unlink()
    encode, rows = encoder("qwen3_vl"), read(path)

    assert len(encode(rows[1]).tokens)
    with pytest.raises(SampleError, match=r"^rows.jsonl train row 2: cannot read the image .*pictures/2.png"):
        encode(rows[2])


def test_unreadable_image(tmp_path: Path, encoder: Encoding) -> None:
    """A file that is no image is one row's error, with its number and path."""
    path = write_source("jsonl", tmp_path)
    (tmp_path / "pictures" / "2.png").write_bytes(picture_bytes(2)[:60])
    (tmp_path / "pictures" / "3.png").write_text("no image")
    encode, rows = encoder("qwen3_vl"), read(path)

    for number in (2, 3):
        with pytest.raises(SampleError, match=rf"row {number}: cannot read the image .*pictures/{number}.png"):
            encode(rows[number])


def test_broken_image_in_parquet(tmp_path: Path, encoder: Encoding) -> None:
    """Broken bytes in a table are one row's error; the other rows are read."""
    rows = question_rows(lambda number: {"bytes": picture_bytes(number)[: 40 if number == 1 else None], "path": None})
    features = make_dataset().features
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    encode, found = encoder("qwen3_vl"), read(tmp_path / "rows.parquet")

    assert len(encode(found[0]).tokens)
    with pytest.raises(SampleError, match=r"row 1: cannot read the image"):
        encode(found[1])


def test_row_that_is_no_conversation(tmp_path: Path) -> None:
    """A row without a conversation is reported with the data set's name and its number."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"}, {"question": "q", "answer": None}])

    with pytest.raises(
        SampleError, match=r"^rows.jsonl train row 1: line 2 of rows.jsonl: the column .answer. has no value"
    ):
        read(path)[1]


def test_first_samples_are_read_on_demand(tmp_path: Path) -> None:
    """Rows without a conversation are left out, none is read before it is asked for, and no column counts as read."""
    rows = [{"note": "no conversation"}, *question_rows(lambda number: f"{number}.png")]
    train, _ = read_rows(DataSection(path=str(write_jsonl(tmp_path / "rows.jsonl", rows))))

    found = list(train.first_samples(3))

    assert [sample.turns[-1].text for sample in found] == ["0", "1"]
    assert "none were read" in describe_columns(train.columns())
    assert len(list(train.first_samples())) == N_ROWS
