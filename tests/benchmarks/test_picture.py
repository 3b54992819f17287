"""The picture of a run."""

from pathlib import Path

from benchmarks.picture import draw


def test_a_picture_has_what_was_printed(tmp_path: Path) -> None:
    """The SVG has the command as its title and the lines that it printed."""
    file = tmp_path / "a.svg"
    status = draw(file, ["init"])
    text = file.read_text(encoding="utf-8").replace("&#160;", " ")

    assert status == 0
    assert "python -m vlora init" in text
    assert "quickstart_qlora" in text
