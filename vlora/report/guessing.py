"""What columns mean whose names no layout reads: by names that others use, and by what stands in them. Pure.

Names go first, but for images, which values tell better. What names leave open is guessed from a few rows' values, and
every guess has its reason: nothing is guessed silently.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs

from ..data.format.pictures import list_images
from ..data.format.preferences import BETTER, MARKS, WORSE, WORSE_ONLY
from ..data.readers.inline_images import begins_picture, is_inline
from ..data.readers.sources import IMAGE_SUFFIXES
from ..recipe.columns import IMAGE_COLUMNS

MEANINGS = {
    "image": ("photo", "picture", "pic", "img", "image_path", "img_path", "file", "filename", "file_name", "path"),
    "question": ("ask", "asked", "q", "query", "problem", "task", "instruction", "prompt", "input", "user", "request"),
    "answer": (
        *("reply", "a", "solution", "target", "ground_truth", "gt", "expected", "response", "completion", "output"),
        *("assistant", "answers", "reference", "result"),
    ),
    "caption": ("description", "desc", "alt", "alt_text", "title", "captions", "transcription", "transcript"),
    "label": ("class", "category", "species", "labels", "tag", "type"),
}
"""Names of columns in other people's rows, by what vlora calls the column."""

COMPARED = (
    *(("better", "worse"), ("chosen", "reject"), ("accepted", "rejected"), ("preferred", "rejected")),
    *(("preferred", "dispreferred"), ("preferred", "non_preferred"), ("winner", "loser"), ("win", "lose")),
    *(("winning", "losing"), ("y_w", "y_l")),
)
"""Names of a better and a worse answer in other people's rows."""

ANSWER_ENDS = ("", "_answer", "_response", "_completion", "_output", "_text", "_caption")
"""What may stand behind such a name."""

OF_IMAGES_ALONE = ("caption", "label", "text")
"""Columns that are the answer to an image alone."""

MOST = 0.5
"""The share of a column's values that has to be so."""

OF_NAMES = re.compile(r"\S*[\d/_]\S*")
"""A word that names something: a number, a path, a key. A column of nothing but such, all different, holds no text."""

OTHER_FILE = re.compile(r"\.\w{1,5}$")
"""Ends the name of a file; of pictures the values themselves have told."""

ROLE_KEYS = ("role", "from")


@attrs.frozen
class Guess:
    """What a column is taken for.

    Attributes:
        column: The column.
        meaning: What it is, as `data.columns` says it.
        why: The reason.
    """

    column: str
    meaning: str
    why: str


@attrs.frozen
class Texts:
    """What the texts of a column are like.

    Attributes:
        column: The column.
        n_values: Rows that have one.
        n_distinct: Different ones.
        n_asking: Those that end with a question mark.
        n_characters: Of all together.
    """

    column: str
    n_values: int
    n_distinct: int
    n_asking: int
    n_characters: int

    @property
    def asks(self) -> bool:
        """Whether most of them are questions."""
        return self.n_asking > MOST * self.n_values

    @property
    def size(self) -> float:
        """How long and how varied they are: characters of the distinct ones in a row."""
        return self.n_characters / self.n_values * self.n_distinct / self.n_values

    def describe(self) -> str:
        """Say it."""
        length = round(self.n_characters / self.n_values)
        return f"{self.n_distinct} different values in {self.n_values}, {length} characters each"


def guess_columns(
    raw: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], *, is_compared: bool = False
) -> list[Guess]:
    """Guess what the columns of rows are that no layout reads.

    Args:
        raw: Some rows, as the table has them.
        kinds: What columns are declared to hold; see `RowDataset.kinds`.
        is_compared: They have a better and a worse answer, whose columns are told by their names alone.

    Returns:
        Guesses in the order of the columns, those included whose name is that already; empty where nothing fits.
    """
    names = list(dict.fromkeys(str(name) for row in raw for name in row))
    images = list(_find_images(raw, kinds, names))
    told = [*images, *(find_pair(raw) if is_compared else [])]
    known = {guess.column for guess in told} | ({BETTER, WORSE, *WORSE_ONLY} if is_compared else set())
    rest = [name for name in names if name not in known]
    if (chat := next((name for name in rest if _is_chat(_values(raw, name))), None)) is not None:
        return [*told, Guess(chat, "messages", "its values are lists of turns")]
    named = _name(raw, rest)
    texts = [own for name in rest if name not in named if (own := measure(name, _values(raw, name))) is not None]
    guesses = {guess.meaning: guess for guess in [*named.values(), *told]}
    found = [*told, *named.values(), *_guess_texts(guesses, texts, has_images=bool(images))]
    if images and not is_compared and "question" not in {guess.meaning for guess in found}:
        # An answer to the image alone.
        found = [attrs.evolve(guess, meaning="caption") if guess.meaning == "answer" else guess for guess in found]
    return sorted(found, key=lambda guess: names.index(guess.column))


def find_objective(raw: Sequence[Mapping[str, Any]]) -> Literal["sft", "dpo", "kto"]:
    """Say what rows are learned by: answers, a better and a worse answer, or marks of whether an answer is wanted.

    A column of marks holds truth values only; beside an image alone it is the answer.
    """
    names = {str(name) for row in raw for name in row if _values([row], name)}
    if {BETTER, WORSE} <= names or names & set(WORSE_ONLY) or find_pair(raw):
        return "dpo"
    marks = [name for name in MARKS if name in names]
    is_marked = any(all(isinstance(mark, bool) for mark in _values(raw, name)) for name in marks)
    return "kto" if is_marked and not names <= {*MARKS, *IMAGE_COLUMNS} else "sft"


def find_pair(raw: Sequence[Mapping[str, Any]]) -> list[Guess]:
    """Find the columns of a better and a worse answer under names that others use; none where rows have vlora's own."""
    plain = {_plain(str(name)): str(name) for row in raw for name in row}
    if {BETTER, WORSE} <= plain.keys():
        return []
    for names in (tuple(name + end for name in pair) for end in ANSWER_ENDS for pair in (*COMPARED, (BETTER, WORSE))):
        if all(name in plain and _are_answers(_values(raw, plain[name])) for name in names):
            better, worse = (plain[name] for name in names)
            return [
                Guess(better, BETTER, f"by its name, beside {worse!r}"),
                Guess(worse, WORSE, f"by its name, beside {better!r}"),
            ]
    return []


def _are_answers(values: Sequence[Any]) -> bool:
    """Whether values are texts or turns, and no marks or numbers."""
    return bool(values) and all(isinstance(value, (str, list, tuple, Mapping)) for value in values)


def find_images(raw: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> list[Guess]:
    """Find the columns that hold images, or name their files."""
    return list(_find_images(raw, kinds, list(dict.fromkeys(str(name) for row in raw for name in row))))


def measure(column: str, values: Sequence[Any]) -> Texts | None:
    """Measure the texts of a column; None where most values are none, or names of something."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if len(texts) <= MOST * len(values):
        return None
    distinct = set(texts)
    if len(distinct) == len(texts) > 1 and all(OF_NAMES.fullmatch(text) for text in texts):
        return None
    n_asking = sum(text.endswith(("?", "？", "؟")) for text in texts)  # noqa: RUF001 - they end questions elsewhere
    return Texts(column, len(texts), len(distinct), n_asking, sum(map(len, texts)))


def _guess_texts(known: Mapping[str, Guess], texts: Sequence[Texts], *, has_images: bool) -> Iterator[Guess]:
    """Guess which texts are questions and which answers, as far as names have not said it."""
    if any(name in known for name in OF_IMAGES_ALONE) and has_images and "question" not in known:
        return
    left = list(texts)
    has_answer, has_question = "answer" in known, "question" in known
    asking = max((text for text in left if text.asks), key=lambda text: text.n_asking, default=None)
    if not has_question and asking is not None and (has_answer or len(left) > 1):
        left.remove(asking)
        has_question = True
        yield Guess(asking.column, "question", f"{asking.n_asking} of {asking.n_values} end with a question mark")
    elif not has_question and has_images and not has_answer and len(left) == 1 and asking is None:
        yield Guess(left[0].column, "caption", f"the only text beside the images ({left[0].describe()})")
        return
    # The answer before a question that nothing marks: it is what such a question is told apart by.
    if not has_answer and left and (has_question or len(left) > 1):
        answer = max(reversed(left), key=lambda text: text.size)
        left.remove(answer)
        has_answer = True
        yield Guess(answer.column, "answer", f"the longest and most varied text ({answer.describe()})")
    if not has_question and has_answer and left and asking is None:
        question = max(left, key=lambda text: text.size)
        yield Guess(question.column, "question", f"the longest text that is left ({question.describe()})")


def _find_images(raw: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], names: Iterable[str]) -> Iterator[Guess]:
    for name in names:
        values = _values(raw, name)
        if kinds.get(name) == "image":
            yield Guess(name, "image", "it is declared to hold images")
        elif values and all(_is_image(value) for value in values):
            named = all(isinstance(image, str) and not is_inline(image) for image in list_images(values))
            yield Guess(name, "image", "its values name picture files" if named else "its values are pictures")
        elif values and _is_named_image(name, values):
            yield Guess(name, "image", "by its name")


def _is_named_image(name: str, values: Sequence[Any]) -> bool:
    """Whether a column's name says that it holds images, and its values may be some."""
    plain = _plain(name)
    is_other = (
        all(isinstance(value, str) and OTHER_FILE.search(value) for value in values) and plain not in IMAGE_COLUMNS
    )
    return find_meaning(name) in IMAGE_COLUMNS and all(map(list_images, values)) and not is_other


def _name(raw: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Guess]:
    """Give the columns whose names say what they are, the likeliest of each meaning; lists are no texts."""
    found: dict[str, Guess] = {}
    for name in sorted(names, key=_likelihood):
        what = None if holds_lists(raw, name) and find_meaning(name) in MEANINGS else find_meaning(name)
        if what is not None and what not in (*IMAGE_COLUMNS, *(guess.meaning for guess in found.values())):
            found[name] = Guess(name, what, "by its name")
    return found


def holds_lists(raw: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether values of a column are lists or objects, which are no question or answer."""
    return any(isinstance(row.get(name), (list, tuple, Mapping)) for row in raw)


def _likelihood(name: str) -> int:
    """Give the place of a column's name among those of its meaning."""
    plain = _plain(name)
    return next((names.index(plain) for names in MEANINGS.values() if plain in names), -1)


def _plain(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def find_meaning(name: str) -> str | None:
    """Say what a column's name means elsewhere; None if nothing is known of it."""
    plain = _plain(name)
    if plain in ("question", "answer", *IMAGE_COLUMNS, *OF_IMAGES_ALONE):
        return plain
    return next((what for what, names in MEANINGS.items() if plain in names), None)


def _values(raw: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """List the values of a column that are there."""
    values = (row.get(name) for row in raw)
    return [value for value in values if value is not None and not (isinstance(value, (str, list)) and not value)]


def _is_image(value: Any) -> bool:
    """Whether a value is an image, or nothing but images, in any of the ways in which rows spell them."""
    images = list_images(value)
    return bool(images) and all(_is_picture(image) for image in images)


def _is_picture(image: Any) -> bool:
    if isinstance(image, str):
        return is_inline(image) or image.partition("?")[0].lower().endswith(IMAGE_SUFFIXES)
    if isinstance(image, bytes):
        return begins_picture(image)
    if isinstance(image, Mapping):
        data, path = image.get("bytes"), image.get("path")
        return (isinstance(data, bytes) and begins_picture(data)) or (isinstance(path, str) and _is_picture(path))
    # A picture that is decoded.
    return hasattr(image, "size") and hasattr(image, "mode")


def _is_chat(values: Sequence[Any]) -> bool:
    def is_turns(value: Any) -> bool:
        is_list = isinstance(value, (list, tuple)) and bool(value)
        return is_list and all(isinstance(turn, Mapping) and any(key in turn for key in ROLE_KEYS) for turn in value)

    return bool(values) and all(map(is_turns, values))
