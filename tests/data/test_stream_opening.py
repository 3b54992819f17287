"""Streams of a recipe: first rows by number, rows held out at the beginning, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.streams import write_lines
from vlora.data import stream_opening
from vlora.data.drawn_rows import draw_rows
from vlora.data.mixed_rows import mix_rows
from vlora.data.rows import RowDataset
from vlora.data.stream_opening import check_streams, read_streams
from vlora.errors import RecipeError, SampleError
from vlora.recipe.schema import DataSection


def section(path: str, **keys: Any) -> DataSection:
    """Make the section of a recipe that streams rows."""
    return DataSection(path=path, streaming=True, **keys)


def answers(rows: RowDataset) -> list[str]:
    """Read the answers of all rows that have numbers."""
    return [rows[index].turns[-1].text for index in range(len(rows))]


def test_the_first_rows_have_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They show and measure; the stream has all."""
    monkeypatch.setattr(stream_opening, "HEAD_ROWS", 3)
    train, valid = read_streams(section(write_lines(tmp_path, (2, 4))))

    assert answers(train) == ["It is 0.", "It is 1.", "It is 2."]
    assert train[2].source == "rows-1.jsonl row 0"
    assert train.stream is not None
    assert (train.n_known, train.n_marks, valid) == (None, 2, None)


def test_first_rows_are_held_out_and_not_trained(tmp_path: Path) -> None:
    """With slices that fit together; a slice of another kind is refused."""
    path = write_lines(tmp_path, (2, 4))
    train, valid = read_streams(section(path, split="train[3:]", valid_split="train[:2]"))

    assert answers(train) == ["It is 3.", "It is 4.", "It is 5."]
    assert valid is not None
    assert answers(valid) == ["It is 0.", "It is 1."]
    for keys, message in (
        ({"valid_split": "train[:2]"}, r"would be trained on, too; set data\.split = 'train\[2:\]'"),
        ({"split": "train[:2]"}, r"data\.split: found 'train\[:2\]'; a stream is cut at its beginning only"),
        ({"split": "train[10%:]"}, "a stream is cut at its beginning only"),
        ({"split": "train[9:]"}, r"has 6 rows, which leaves none"),
        ({"split": "train+test"}, "a stream has one split"),
        ({"valid_split": "train[2:4]"}, "of a stream the first rows are held out"),
    ):
        with pytest.raises(RecipeError, match=message):
            read_streams(section(path, **keys))


def test_other_files_are_validated_on(tmp_path: Path) -> None:
    """A file is read as without a stream; several are all of their rows."""
    path, other = write_lines(tmp_path / "train", (2,)), write_lines(tmp_path / "valid", (1, 2))
    _, several = read_streams(section(path, valid_path=other))
    _, one = read_streams(section(path, valid_path=str(tmp_path / "valid" / "rows-1.jsonl")))

    assert several is not None
    assert answers(several) == ["It is 0.", "It is 1.", "It is 2."]
    assert one is not None
    assert answers(one) == ["It is 1.", "It is 2."]


def test_rows_that_are_trained_on_are_not_validated_on(tmp_path: Path) -> None:
    """Files that are named have no splits: another one of theirs would be the same rows."""
    path = write_lines(tmp_path, (2, 3))
    for named in (path, path.replace("*", "1")):
        with pytest.raises(
            RecipeError, match=r"data\.valid_split: found 'test', .*a single split, which is trained on"
        ):
            read_streams(section(named, valid_split="test"))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """The key is named; files without a row are refused when they are opened."""
    with pytest.raises(RecipeError, match=r"data\.path: cannot read .*there is no such file"):
        check_streams(section(str(tmp_path / "*.jsonl")))
    path = write_lines(tmp_path, (0,))
    check_streams(section(path, valid_path=path))
    with pytest.raises(RecipeError, match=r"data\.path: cannot read .*it has no rows"):
        read_streams(section(path))


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("is_mixture", [False, True], ids=["one", "mixture"])
def test_errors_name_the_line(ending: str, is_mixture: bool, tmp_path: Path) -> None:
    """Of first rows, of drawn ones in any order, and of sources of a mixture; what the file itself says has it."""
    bad = {"jsonl": '{"messages": [{"role": "user", "content": "q"}]}', "csv": '"What\nis it?",'}[ending]
    good = {"jsonl": '{"question": "q", "answer": "a"}', "csv": '"q\nr",a'}[ending]
    head = {"jsonl": [], "csv": ["question,answer"]}[ending]
    (tmp_path / f"rows.{ending}").write_text("\n".join([*head, good, bad, good, bad]))
    (train,) = [rows for rows in read_streams(section(str(tmp_path / f"rows.{ending}"))) if rows is not None]
    rows = mix_rows("all", [train, train], weights=(1, 1)) if is_mixture else train
    drawn = draw_rows(rows)
    for source, stream in enumerate(drawn.streams):
        for number, row in enumerate(stream.find([0])):
            drawn.put(4 * source + number, source, row, n_reads=2)
    lines = {"jsonl": (2, 4), "csv": (4, 8)}[ending]

    for read, number, line in (
        (each, number, line)
        for each in (rows, drawn.rows)
        for number, line in ((3, lines[1]), (1, lines[0]), (len(drawn) - 1, lines[1]))
    ):
        name = f"rows.{ending} row {number % 4}: line {line} of rows.{ending}: "
        with pytest.raises(SampleError, match=f"^{name}"):
            read[number]
        error = SampleError(f"rows.{ending} row {number % 4}: too long")
        with pytest.raises(SampleError, match=f"^{name}too long$"), read.locating(number):
            raise error
