"""Which files are streamed: kinds by their endings, and what is said of others."""

from pathlib import Path

import pytest

from vlora.data.readers.stream_kinds import check_stream, find_files, is_read_by_number


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.jsonl", "there is no such file"),
        ("none/*.jsonl", "there is no such file"),
        ("rows.xml", r"'rows\.xml' is not streamed, files ending in \.jsonl"),
    ],
)
def test_what_is_not_there_or_not_streamed_is_refused(tmp_path: Path, path: str, message: str) -> None:
    """Before anything is opened."""
    (tmp_path / "rows.xml").write_text("")
    with pytest.raises(ValueError, match=message):
        check_stream(str(tmp_path / path))


def test_built_in_rows_are_not_streamed() -> None:
    """They are made in memory."""
    with pytest.raises(ValueError, match=r"leave data\.streaming out"):
        check_stream("builtin:digits")


def test_files_of_one_kind_are_found(tmp_path: Path) -> None:
    """By a wildcard, whichever of a kind's endings they have."""
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.ndjson").write_text("{}")

    assert [file.name for file in find_files(str(tmp_path / "*"), "train", None, None)] == ["a.jsonl", "b.ndjson"]
    assert is_read_by_number(str(tmp_path / "a.jsonl"))
    assert is_read_by_number(str(tmp_path / "*.jsonl"))
    (tmp_path / "c.tar").write_bytes(b"")
    assert not any(is_read_by_number(str(tmp_path / name)) for name in ("c.tar", "*.tar", "none-*.tar"))
    assert not is_read_by_number("valid.tar")
