"""The same rows with all that they were answered: read from lines that may be damaged, with pictures."""

from pathlib import Path

import pytest

from tests.training import picture
from vlora.errors import SampleError
from vlora.evaluation.prediction import Prediction, dump_prediction
from vlora.recipe.schema import DataSection
from vlora.report.run.answers import BYTES, MOST_READ, MOST_ROUNDS, N_ROWS, SIDE, RowPictures, choose, read_answers
from vlora.types import ImageSlot, Sample, Turn

DATA = DataSection(path="-")


def write_answers(file: Path, n_rows: int, steps: tuple[int, ...]) -> Path:
    """Write rounds of answers; those of the last step are right."""
    lines = [
        dump_prediction(
            Prediction(
                row=f"rows.jsonl row {row}",
                prompt=f"<|user|>What is {row}?",
                expected=f"it is {row}",
                answer=f"it is {row}" if step == steps[-1] else f"{step}",
                step=step,
            ),
            {"anls": step / 10},
        )
        for step in steps
        for row in range(n_rows)
    ]
    file.write_text("".join(lines))
    return file


class Rows:
    """Held-out rows with a picture each; one is bad. They note which of them were read."""

    def __init__(self, n_rows: int, bad: int = -1) -> None:
        self.n_rows, self.bad = n_rows, bad
        self.read: list[int] = []

    def __len__(self) -> int:
        """Count them."""
        return self.n_rows

    def __getitem__(self, index: int, /) -> Sample:
        """Read one."""
        self.read.append(index)
        if index == self.bad:
            msg = f"rows.jsonl row {index}: nothing"
            raise SampleError(msg)
        turns = (Turn("user", (ImageSlot(0), f"What is {index}?")), Turn("assistant", (f"it is {index}",)))
        return Sample(source=f"rows.jsonl row {index}", turns=turns, images=(picture(900, 600, index),))


def test_answers_of_a_row_by_steps(tmp_path: Path) -> None:
    """The first rows of the file, each with its rounds in order; what is as expected is marked."""
    rows = read_answers(write_answers(tmp_path / "a", 20, (20, 0, 10, 30)))

    assert [row.row for row in rows] == [f"rows.jsonl row {number}" for number in range(N_ROWS)]
    assert [(answer.step, answer.is_expected) for answer in rows[3].answers] == [
        (0, False),
        (10, False),
        (20, False),
        (30, True),
    ]
    assert (rows[3].expected, rows[3].answers[-1].scores) == ("it is 3", {"anls": 3.0})


def test_a_round_that_was_answered_again_stands_once(tmp_path: Path) -> None:
    """As it was answered last."""
    file = write_answers(tmp_path / "a", 1, (0, 5))
    file.write_text(file.read_text() + file.read_text().splitlines()[1].replace("it is 0", "another") + "\n")

    [row] = read_answers(file)

    assert [answer.text for answer in row.answers] == ["0", "another"]


@pytest.mark.parametrize("end", ['{"row": "rows', "\n\n", "[]\n", '{"row": 7}\n'])
def test_damaged_lines_are_passed_over(end: str, tmp_path: Path) -> None:
    """A run that was killed may have written a part of one."""
    file = write_answers(tmp_path / "a", 2, (0,))
    file.write_text(end + "\n" + file.read_text() + end)

    assert len(read_answers(file)) == 2


def test_without_answers(tmp_path: Path) -> None:
    """There is no file."""
    assert read_answers(tmp_path / "nowhere") == []


def test_first_last_and_some_between(tmp_path: Path) -> None:
    """Of many rounds."""
    [row] = read_answers(write_answers(tmp_path / "a", 1, tuple(range(0, 100, 10))))

    assert [answer.step for answer in row.answers] == [0, 20, 40, 50, 70, 90]
    assert len(row.answers) == MOST_ROUNDS
    assert choose(row.answers[:2]) == list(row.answers[:2])


def test_pictures_are_those_of_the_rows(tmp_path: Path) -> None:
    """Found by the row's name, small, and read once; the question is the row's, without the template around it."""
    answered = read_answers(write_answers(tmp_path / "a", 6, (0, 9)))[5]
    rows = Rows(100, bad=2)
    pictures = RowPictures(rows, DATA)

    found = pictures.add(answered)
    pictures.add(answered)

    assert found.question == "What is 5?"
    assert max(found.pictures[0].width, found.pictures[0].height) <= SIDE
    assert found.pictures[0].label == f"900x600, shown at {SIDE}x171"
    assert found.pictures[0].about == "image 1 of rows.jsonl row 5"
    assert len(found.pictures[0].uri) < BYTES * 4 / 3 + 100
    assert rows.read == list(range(6))


def test_a_row_that_is_not_found_has_none(tmp_path: Path) -> None:
    """Answers of other rows, by another data set: few are read to look for it."""
    [answered] = read_answers(write_answers(tmp_path / "a", 1, (0,)))
    rows = Rows(1000)
    named = RowPictures(rows, DATA).add(answered)
    assert named.pictures

    other = RowPictures(rows, DATA)
    rows.read.clear()
    moved = other.add(type(answered)(row="elsewhere", question="q", expected="", answers=()))
    assert (moved.question, moved.pictures, len(rows.read)) == ("q", (), MOST_READ)


def test_a_bad_row_has_none(tmp_path: Path) -> None:
    """It was told when it was to be answered."""
    answered = read_answers(write_answers(tmp_path / "a", 3, (0,)))[2]

    assert RowPictures(Rows(3, bad=2), DATA).add(answered) == answered
