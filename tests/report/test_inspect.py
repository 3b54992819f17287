"""Rows as text: runs of tokens that are alike, in their order, none left out."""

import itertools
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.format.samples import Reading
from vlora.data.rows import RowDataset
from vlora.errors import SampleError
from vlora.report.inspect import Piece, describe, divide, inspect_rows
from vlora.report.rows.choice import Chosen
from vlora.types import Cut, Example, Sample

ROLES = ("user", "assistant", "template")
TOKENS = st.lists(
    st.tuples(
        st.integers(97, 122), st.sampled_from(["image", "learned", "context"]), st.sampled_from(ROLES), st.booleans()
    ),
    min_size=1,
    max_size=30,
)


def decode(ids: list[int]) -> str:
    """Write tokens that are letters."""
    return "".join(map(chr, ids))


def make_example(tokens: list[tuple[int, str, str, bool]]) -> Example:
    """Make a row of tokens of given kinds."""
    kinds = np.array([kind for _, kind, _, _ in tokens])
    ids = np.array([token for token, *_ in tokens], np.int32)
    return Example("rows row 3", ids, kinds == "learned", kinds == "image", image_sizes=((4, 5),))


@given(TOKENS)
def test_pieces_are_the_row(tokens: list[tuple[int, str, str, bool]]) -> None:
    """Each is of one kind and one role, and differs from the next; images are numbers of their tokens."""
    roles, special = [role for *_, role, _ in tokens], np.array([mark for *_, mark in tokens])
    pieces = divide(make_example(tokens), decode, roles, special)

    spread: list[Any] = []
    for piece in pieces:
        if piece.kind == "image":
            spread += [("image", piece.role)] * int(piece.text.removesuffix(" image tokens"))
        else:
            spread += [(letter, piece.kind, piece.role, piece.is_special) for letter in piece.text]
    expected = [
        ("image", role) if kind == "image" else (chr(token), {"learned": "supervised"}.get(kind, kind), role, mark)
        for token, kind, role, mark in tokens
    ]
    assert spread == expected
    alike = [attrs.evolve(piece, text="") for piece in pieces if piece.kind != "image"]
    if len(alike) == len(pieces):
        assert all(one != other for one, other in itertools.pairwise(alike))


@given(TOKENS)
def test_a_description_counts_tokens(tokens: list[tuple[int, str, str, bool]]) -> None:
    """All tokens are text or images; what was cut is said."""
    cut = Cut(source="rows row 3", n_tokens=99, n_kept=len(tokens), n_lost=1)
    found = describe(attrs.evolve(make_example(tokens), cut=cut), decode)

    assert found.n_text + found.n_image == len(tokens)
    assert found.n_supervised == sum(kind == "learned" for _, kind, _, _ in tokens)
    assert (found.source, found.image_sizes, found.cut) == ("rows row 3", ((4, 5),), cut)
    assert found.pieces == divide(make_example(tokens), decode)


class LetterEncoder:
    """Encodes rows as one letter, but bad ones."""

    tokenizer = SimpleNamespace(decode=decode)

    def __call__(self, sample: Sample) -> Example:
        """Encode a row."""
        if "bad" in sample.turns[0].text:
            msg = f"{sample.source}: is bad"
            raise SampleError(msg)
        return make_example([(97, "learned", "user", False)])


def test_bad_rows_are_among_the_others() -> None:
    """A row that cannot be encoded has its problem, and the next one follows."""
    table = [{"question": text, "answer": "a"} for text in ("good", "bad", "good")]
    rows = RowDataset(name="rows", table=table, indices=[0, 1, 2])
    data: Any = SimpleNamespace(encoder=LetterEncoder())
    found = list(inspect_rows(data, [Chosen(rows=rows, index=index) for index in (1, 2)]))

    assert [row.problem for row in found] == ["rows row 1: is bad", None]
    assert found[1].pieces == (Piece(text="a", kind="supervised"),)
    assert "question" in found[1].columns.used


def test_pairs_and_marks_are_shown() -> None:
    """The worse answer from where it begins, and whether an answer is wanted."""

    class PairEncoder(LetterEncoder):
        def __call__(self, sample: Sample) -> Example:
            letter = ord(sample.turns[-1].text)
            return make_example([(97, "context", "user", False), (letter, "learned", "assistant", False)])

    table: list[dict[str, Any]] = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "completion": "b", "label": False},
    ]
    reading = Reading(preferences="marks")
    rows = RowDataset(name="rows", table=table, indices=[0, 1], reading=reading)
    data: Any = SimpleNamespace(encoder=PairEncoder())
    pair, marked = inspect_rows(data, [Chosen(rows=rows, index=index) for index in (0, 1)])

    assert [piece.text for piece in pair.pieces] == ["a", "b"]
    assert pair.rejected == (Piece(text="c", kind="supervised"),)
    assert (pair.is_wanted, marked.is_wanted, marked.rejected) == (None, False, ())
