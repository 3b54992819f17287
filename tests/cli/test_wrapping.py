"""Lines of a terminal, broken between words."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from vlora.cli.wrapping import wrap


def wrapped(text: str, width: int) -> list[str]:
    """Give the lines of a text."""
    return wrap(Text(text), width).plain.split("\n")


@given(st.lists(st.text("abc\u4e2d", min_size=1, max_size=12), min_size=1, max_size=30), st.integers(30, 80))
def test_no_word_is_broken(words: list[str], width: int) -> None:
    """All words are there, in lines that fit."""
    lines = wrapped(" ".join(words), width)

    assert " ".join(lines).split() == words
    assert all(Text(line).cell_len <= width for line in lines)


def test_later_lines_are_indented() -> None:
    """A little more than the first one; other lines stay as they are."""
    assert wrapped("note one two three\n  four five six seven\n\nlast", 12) == [
        *("note one two", "  three", "  four five", "    six", "    seven", "", "last"),
    ]


def test_paths_are_broken_at_separators() -> None:
    """And only if they are longer than a line."""
    assert wrapped("saved runs/first/adapters after", 20) == ["saved", "  runs/first/", "  adapters after"]
    assert wrapped("saved /aaaa/bbbb/cccc/dddd", 12) == ["saved", "  /aaaa/", "  bbbb/cccc/", "  dddd"]
    whole = wrap(Text("saved /aaaa/bbbb/cccc/dddd after"), 12, in_paths=False)
    assert whole.plain.split("\n") == ["saved /aaaa/bbbb/cccc/dddd", "  after"]
    assert wrapped("a veryveryverylongword b", 10) == ["a", "  veryveryverylongword", "  b"]


@pytest.mark.parametrize("width", [20, 40, 79])
def test_commands_can_be_pasted(width: int) -> None:
    """Lines but the last end with a backslash, and none is broken within quotes."""
    command = "python -m mlx_vlm.generate --model runs/a/b/c/d/e/f --prompt 'What is  it, and why?' --max-tokens 8"
    lines = wrapped(f"ask it:\n  {command}", width)

    assert lines[0] == "ask it:"
    assert all(line.endswith(" \\") for line in lines[1:-1])
    assert shlex.split("\n".join(lines[1:]).replace("\\\n", "")) == shlex.split(command)
    if width == 79:
        assert max(map(len, lines)) <= 79


def test_styles_stay() -> None:
    """Where they were."""
    found = wrap(Text.from_markup("one [red]two three[/] four"), 8)

    assert found.plain == "one two\n  three\n  four"
    assert [found.plain[span.start : span.end].split() for span in found.spans] == [["two"], ["three"]]


def test_a_path_takes_the_word_before_it_along() -> None:
    """In files, where paths and commands stay in one piece, a line ends before both."""
    kept = wrap(Text("features are kept in /aaaa/bbbb/cccc and more"), 24, in_paths=False)
    command = "  python -m mlx_vlm.generate --model runs/a --prompt 'What is it?'"

    assert kept.plain.split("\n") == ["features are kept", "  in /aaaa/bbbb/cccc and", "  more"]
    assert wrap(Text(command), 24, in_paths=False).plain == command
