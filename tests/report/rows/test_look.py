"""A row is looked at as training encodes it: tokens, roles, images, what was cut."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.encode.images.test_received import checkered
from tests.models.encode.test_seq2seq import encoder as make_pair_encoder
from tests.runs import make_recipe
from vlora.build import Data, load_data
from vlora.data.rows import RowDataset
from vlora.report.inspect import Piece
from vlora.report.rows.choice import Chosen
from vlora.report.rows.look import fold, look_at

CheckpointFactory = Callable[[str], Path]
LIMIT = 60


def open_data(checkpoint: Path, folder: Path, rows: list[dict[str, Any]], **keys: Any) -> Data:
    """Open rows beside two images."""
    for number, size in enumerate([(48, 32), (64, 96)]):
        checkered(*size).save(folder / f"{number}.png")
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_data(make_recipe(checkpoint, path, folder / "out", data__train_on_completions=True, **keys))


def test_a_row(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Its text is that of its tokens, its counts are theirs, and its images are the processor's."""
    rows = [{"images": ["0.png", "1.png"], "question": "Which  one?", "answer": "The first."}]
    data = open_data(checkpoint("qwen3_vl"), tmp_path, rows)
    look = look_at(data, Chosen(rows=data.train, index=0))
    example = data.encoder(data.train[0])

    assert look.problem is None
    assert look.n_text + look.n_image == len(example.tokens)
    assert look.n_supervised == example.supervised.sum()
    assert "".join(piece.text for piece in look.pieces if piece.role == "user") == "Which  one?"
    assert "".join(piece.text for piece in look.pieces if piece.kind == "supervised") == "The first.<|im_end|>"
    assert [piece.text for piece in look.pieces if piece.is_special][-1] == "<|im_end|>"
    assert [(image.name, image.size, image.is_processed) for image in look.images] == [
        ("image 1", "48x32", True),
        ("image 2", "64x96", True),
    ]
    assert sum(image.n_tokens or 0 for image in look.images) == look.n_image == example.placeholders.sum()
    grids = example.inputs["image_grid_thw"]
    assert dict(look.inputs)["image_grid_thw"] == "; ".join("x".join(map(str, grid)) for grid in grids.tolist())


def test_a_worse_answer(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Its tokens are told apart as those of the better one are."""
    rows = [{"prompt": "Which one?", "chosen": "The first.", "rejected": "None."}]
    data = open_data(checkpoint("qwen3_vl"), tmp_path, rows, train__objective="dpo")
    look = look_at(data, Chosen(rows=data.train, index=0))

    assert [(piece.text, piece.role, piece.is_special) for piece in look.rejected] == [
        ("None.", "assistant", False),
        ("<|im_end|>", "assistant", True),
        ("\n", "template", False),
    ]


def test_a_cut_row(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """What is left out is there too, apart; both together are the whole row."""
    rows = [{"question": "Well?", "answer": "It is so. " * 40}]
    data = open_data(checkpoint("qwen3_vl"), tmp_path, rows, data__max_seq_length=LIMIT)
    look = look_at(data, Chosen(rows=data.train, index=0))

    assert look.cut is not None
    assert (look.n_text, look.cut.n_kept) == (LIMIT, LIMIT)
    answer = "".join(piece.text for piece in (*look.pieces, *look.lost) if piece.kind == "supervised")
    assert answer == "It is so. " * 40 + "<|im_end|>"


@pytest.mark.parametrize(
    ("row", "problem", "is_shown"),
    [
        ({"image": "nowhere.png", "question": "a", "answer": "b"}, "cannot read the image", False),
        ({"question": "a", "answer": ""}, "", False),
        ({"question": "a " * 99, "answer": "b"}, "no token is supervised within", True),
    ],
)
def test_bad_rows(
    row: dict[str, Any], problem: str, is_shown: bool, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """Why they are refused is said without their name; their tokens are shown if there are any."""
    data = open_data(checkpoint("qwen3_vl"), tmp_path, [row], data__max_seq_length=LIMIT)
    look = look_at(data, Chosen(rows=data.train, index=0))

    assert look.problem is not None
    assert look.problem.removeprefix("line 1 of rows.jsonl: ").startswith(problem)
    assert "train row" not in look.problem
    assert bool(look.pieces) == is_shown


@pytest.mark.parametrize("family", ["llava", "idefics3", "mllama"])
def test_families(family: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A space at the beginning of an answer is not lost where the tokenizer joins it; tiles are of their image."""
    rows = [{"images": ["0.png", "1.png"], "question": "Which one?", "answer": "that one"}]
    data = open_data(checkpoint(family), tmp_path, rows, data__max_seq_length=2048)
    look = look_at(data, Chosen(rows=data.train, index=0))

    text = "".join(piece.text for piece in look.pieces)
    assert " that one" in text or "\nthat one" in text or ">that one" in text or ":that one" in text
    assert all(image.is_processed for image in look.images)


texts = st.lists(st.text("ab", min_size=1, max_size=9), max_size=6)


@given(texts, st.integers(0, 12), st.integers(0, 12))
def test_folding_keeps_all(pieces: list[str], head: int, tail: int) -> None:
    """The three parts are the whole, and a beginning and an end have the lengths that were asked."""
    given_pieces = [Piece(text=text, kind="context", role=str(place)) for place, text in enumerate(pieces)]
    parts = fold(given_pieces, head, tail)
    written = ["".join(piece.text for piece in part) for part in parts]

    assert "".join(written) == "".join(pieces)
    if len("".join(pieces)) <= head + tail:
        assert parts[1:] == ([], [])
    else:
        assert [len(written[0]), len(written[2])] == [head, tail]


def test_images_are_not_divided() -> None:
    """Their number stays whole."""
    parts = fold([Piece(text="100 image tokens", kind="image"), Piece(text="abc", kind="context")], 5, 2)

    assert [[piece.text for piece in part] for part in parts] == [["100 image tokens"], ["a"], ["bc"]]


@pytest.mark.parametrize("family", ["florence2", "nemotron_parse"])
def test_encoder_decoders(family: str) -> None:
    """No token of theirs stands for an image; what the decoder learns is the answer."""
    rows = RowDataset(
        name="rows",
        table=[{"image": checkered(40, 30), "question": "What is it?", "answer": "a red square"}],
        indices=[0],
    )
    files: Any = None
    data = Data(files=files, encoder=make_pair_encoder(family), train=rows, valid=None)
    look = look_at(data, Chosen(rows=rows, index=0))

    assert look.problem is None
    assert (look.n_image, [image.n_tokens for image in look.images]) == (0, [0])
    learned = [piece for piece in look.pieces if piece.kind == "supervised"]
    assert {piece.role for piece in learned} == {"assistant"}
    assert "a red square" in "".join(piece.text for piece in learned)
    assert look.images[0].is_processed
