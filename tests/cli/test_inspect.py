"""The command that shows rows as the model will see them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import exit_code

CheckpointFactory = Callable[[str], Path]


def inspect(checkpoint: CheckpointFactory, rows: Path, *options: str) -> int:
    common = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows)]
    return exit_code(["inspect", *common, "--output-path", str(rows.parent / "out"), *options])


def test_inspect(checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inspection shows rows as the model sees them: the learned text in brackets, images as counts, sizes, totals."""
    assert inspect(checkpoint, rows, "--train-on-completions", "--rows", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)

    assert [line for line in lines if line.startswith("rows.jsonl")] == [f"rows.jsonl train row {n}" for n in range(4)]
    assert "What is it?<|im_end|>\n<|im_start|>assistant\n[A red square.<|im_end|>]" in text
    assert "[[bold]markup[/bold]<|im_end|>]" in text
    assert "[Yes.<|im_end|>]\n<|im_start|>user\nAnd now?<|im_end|>" in text
    assert "[No [really].<|im_end|>]" in text
    assert "<|vision_start|><6 image tokens><|vision_end|>" in text
    assert "6 image tokens" in lines[1]
    assert "images: 48x32" in lines[1]
    assert "images: 64x48" in text
    assert "images: none" in text
    assert lines[-2].startswith("columns: ")
    assert "question (the question), answer (the answer)" in lines[-2]
    assert lines[-1] == "4 rows: all of them can be learned from"
    assert not (rows.parent / "out").exists()


def test_inspect_counts(
    checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str], encoder: Any
) -> None:
    """The counts of an inspection are those of the encoded row."""
    assert inspect(checkpoint, rows, "--rows", "1", "--image-resize-shape", "32", "32") == 0
    counts = capsys.readouterr().out.splitlines()[1]
    from vlora import format_sample

    row = {"image": str(rows.parent / "a.png"), "question": "What is it?", "answer": "A red square."}
    example = encoder("qwen3_vl", image_resize_shape=(32, 32))(format_sample(row))
    n_image = int(example.placeholders.sum())
    assert counts == (
        f"  {len(example.tokens) - n_image} text tokens, {n_image} image tokens, {int(example.supervised.sum())} "
        "supervised; images: 32x32"
    )


def test_inspect_shows_three_rows(
    checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --rows the first three are shown; more than there are is all of them."""
    assert inspect(checkpoint, rows) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 rows")
    assert inspect(checkpoint, rows, "--rows", "99") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 rows")


def test_inspect_bad_row(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An inspection shows every bad row's problem, goes on to the next, and ends with status 2."""
    (tmp_path / "a.png").unlink()

    assert inspect(checkpoint, rows) == 2
    text = capsys.readouterr().out
    assert text.startswith("rows.jsonl train row 0\n  line 1 of rows.jsonl: cannot read the image")
    assert "[bold]markup[/bold]" in text
    assert "3 rows: 1 cannot be learned from" in text


def test_chosen_rows(checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are chosen by their numbers, or the longest are shown; the longest first."""
    for options, expected in (
        (["--rows", "3,1-2"], [3, 1, 2]),
        (["--rows", "1,"], [1]),
        (["--longest", "1"], [3]),
        (["--rows", "2"], [0, 1]),
    ):
        assert inspect(checkpoint, rows, *options) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith("rows.jsonl")] == [
            f"rows.jsonl train row {n}" for n in expected
        ]


def test_the_worst_rows(checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a model answered stands below each."""
    lines = [
        {
            "row": f"rows.jsonl train row {n}",
            "expected": "[x]",
            "answer": f"[red]{n}",
            "scores": {"f": 0.5 - n},
            "step": 4,
        }
        for n in (0, 1)
    ]
    path = rows.parent / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert inspect(checkpoint, rows, "--worst", str(path)) == 0
    found = capsys.readouterr().out
    assert found.index("row 1\n") < found.index("  answered: [red]1\n  f -0.5 at step 4\n") < found.index("row 0\n")
    assert "  expected: [x]\n" in found


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--rows", "0"], "found 0, must be greater than 0"),
        (["--rows", "a-b"], "found 'a-b', expected how many rows (5), or which (3,7-9)"),
        (["--rows", "9-7"], "found '9-7', which ends before it begins"),
        (["--rows", "0-999999999999"], "found more than 500 rows"),
        (["--rows", "1-99"], "--rows: rows.jsonl train has no row 4; its rows are 0 to 3"),
        (["--rows", "1,2", "--longest", "3"], "--rows with numbers and --longest choose different rows; give one"),
        (["--worst", "a", "--longest", "3"], "--longest and --worst choose different rows; give one"),
        (["--worst", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--by", "cer"], "--by: says which answers are the worst; give --worst with it"),
        (["--decode"], "--decode: the images of shown rows are decoded without it; give --all or --html"),
        (["--all", "--rows", "3"], "--all: counts all rows and shows none"),
        (["--html", "."], "--html: '.' is a folder; give the name of a new file"),
    ],
)
def test_options_that_contradict(
    options: list[str], error: str, checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence says why."""
    assert inspect(checkpoint, rows, *options) == 2
    assert error in capsys.readouterr().err


def test_a_page_is_written(checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds the chosen rows, replaces an older one whole, and programs are told of what was found."""
    page = rows.parent / "pages" / "rows.html"

    assert inspect(checkpoint, rows, "--html", str(page), "--rows", "1,3", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["Working", "Census", "Finding", "Page"]
    assert events[1]["n_rows"] == 4
    assert events[3] == {"event": "Page", "path": str(page), "n_rows": 4, "n_shown": 2}
    text = page.read_text(encoding="utf-8")
    assert text.count('<section class="card"') == 2
    assert "rows.jsonl train row 3" in text
    assert "[bold]markup[/bold]" in text
    assert text.count("<img ") == 1
    assert [file.name for file in page.parent.iterdir()] == ["rows.html"]

    assert inspect(checkpoint, rows, "--html", str(page), "--all", "--longest", "1") == 0
    printed = capsys.readouterr().out
    assert "  refused rows: 0\nno row is refused, cut or twice there\n1 row of 4 shown in " in printed
    assert inspect(checkpoint, rows, "--html", str(page), "--quiet") == 0
    assert capsys.readouterr().out == f"4 rows of 4 shown in {page}\n"

    before = rows.read_bytes()
    assert inspect(checkpoint, rows, "--html", str(rows)) == 2
    assert f"--html: {str(rows)!r} is there, was not written by this command" in capsys.readouterr().err
    assert rows.read_bytes() == before
