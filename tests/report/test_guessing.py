"""What columns are taken for by their names and by what stands in them, with the reason."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from vlora.report.guessing import Guess, find_images, guess_columns, measure

N = 6
PICTURE = Image.new("RGB", (4, 4))


def png() -> bytes:
    """Give a picture's bytes."""
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    return file.getvalue()


def rows_of(**columns: Any) -> list[dict[str, Any]]:
    """Make rows of columns: a value that all have, or a function of the row's number."""
    return [{name: value(i) if callable(value) else value for name, value in columns.items()} for i in range(N)]


def meanings(rows: list[dict[str, Any]], kinds: dict[str, str] | None = None) -> dict[str, str]:
    """Give what is guessed, without the reasons."""
    return {guess.column: guess.meaning for guess in guess_columns(rows, kinds or {})}


def question(number: int) -> str:
    """Ask."""
    return f"How many wheels has number {number}?"


def tale(number: int) -> str:
    """Answer at length."""
    return f"Number {number} has wheels of several sizes, and {number} of them are not round at all."


PICTURES: dict[str, tuple[Any, str]] = {
    "a path": (lambda i: f"photos/{i}.jpg", "its values name picture files"),
    "an address": (lambda i: f"https://example.org/{i}.PNG?size=large", "its values name picture files"),
    "paths": (lambda i: [f"{i}.png", f"{i}b.webp"], "its values name picture files"),
    "bytes": (png(), "its values are pictures"),
    "base64": (base64.b64encode(png()).decode(), "its values are pictures"),
    "a data URL": ("data:image/png;base64," + base64.b64encode(png()).decode(), "its values are pictures"),
    "an object with bytes": ({"bytes": png(), "path": None}, "its values are pictures"),
    "an object with a path": ({"bytes": None, "path": "a.png"}, "its values name picture files"),
    "a picture": (PICTURE, "its values are pictures"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_images_under_any_name(name: str) -> None:
    """In all the ways in which rows spell them, and under a name that means something else."""
    value, why = PICTURES[name]

    assert find_images(rows_of(answer=value, x="a b"), {}) == [Guess("answer", "image", why)]


def test_what_is_declared_or_named_is_an_image_too() -> None:
    """A column of files without a known ending is one by its name, one that is declared by that."""
    rows = rows_of(photo=lambda i: f"store/{i}", blob=b"?", other=lambda i: f"store/{i}")

    assert meanings(rows, {"blob": "image"}) == {"photo": "image", "blob": "image"}


def test_names_go_first() -> None:
    """The first column of each meaning; what is left is not guessed where nothing is missing."""
    rows = rows_of(photo=lambda i: f"{i}.png", ask=tale, reply=question, remark=tale)

    assert meanings(rows) == {"photo": "image", "ask": "question", "reply": "answer"}
    assert {guess.why for guess in guess_columns(rows, {})} == {"its values name picture files", "by its name"}


def test_questions_end_with_a_question_mark() -> None:
    """Wherever they stand; the answer is the longest and most varied of the other texts."""
    rows = rows_of(long=tale, short="yes or no", asked=question, key=lambda i: f"k{i}")

    assert meanings(rows) == {"asked": "question", "long": "answer"}


def test_the_longest_and_most_varied_text_is_the_answer() -> None:
    """Where nothing asks; of equal ones the later."""
    assert meanings(rows_of(x="Describe what the person in the picture is doing.", y=tale)) == {
        "x": "question",
        "y": "answer",
    }
    assert meanings(rows_of(x=tale, y=lambda i: tale(i)[::-1])) == {"x": "question", "y": "answer"}


def test_one_part_by_its_name_and_one_by_its_values() -> None:
    """A question that is named leaves the answer to be guessed, and the other way round."""
    assert meanings(rows_of(question=tale, x=tale, y="no")) == {"question": "question", "x": "answer"}
    assert meanings(rows_of(answer=tale, x=question, y="no")) == {"answer": "answer", "x": "question"}


def test_one_text_beside_images_is_their_caption() -> None:
    """Also an answer that is named and has no question; a question alone has no answer, and is none."""
    image: Any = {"p": lambda i: f"{i}.png"}

    assert meanings(rows_of(**image, x=tale, key=lambda i: f"{i}")) == {"p": "image", "x": "caption"}
    assert meanings(rows_of(**image, reply=tale)) == {"p": "image", "reply": "caption"}
    assert meanings(rows_of(**image, label="cat", x=tale)) == {"p": "image", "label": "label"}
    assert meanings(rows_of(**image, x=question)) == {"p": "image"}


def test_turns_are_a_conversation_under_any_name() -> None:
    """Lists of objects with a role."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    assert meanings(rows_of(dialog=turns, p=lambda i: f"{i}.png", x=tale)) == {"dialog": "messages", "p": "image"}


def test_names_of_things_are_no_texts() -> None:
    """Keys, numbers and paths that all differ, and columns that most rows lack."""
    assert measure("key", ["row_1", "row_2"]) is None
    assert measure("number", [1, 2, 3]) is None
    assert measure("rare", ["a text"] + [None] * 5) is None

    found = measure("count", ["3", "4", "3"])

    assert found is not None
    assert found.describe() == "2 different values in 3, 1 characters each"
    assert meanings(rows_of(x="a", y=lambda i: i)) == {}
