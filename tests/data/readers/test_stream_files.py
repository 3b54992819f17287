"""Files of streams: paths and wildcards, names, what is left out."""

from pathlib import Path

from vlora.data.readers.stream_files import find_local, name_files


def test_wildcards_name_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Hidden files and folders are left out; names begin where paths differ."""
    for name in ("b/2.jsonl", "a/10.jsonl", "a/.hidden.jsonl", "a/folder.jsonl/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    found = find_local(str(tmp_path / "**" / "*.jsonl"))

    assert found is not None
    assert [file.name for file in found] == ["a/10.jsonl", "b/2.jsonl"]
    assert [file.folder for file in found] == [tmp_path / "a", tmp_path / "b"]
    with found[1].open() as file:
        assert file.read() == b"{}\n"


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    """A name that exists is no pattern, whatever its characters; what does not exist is none of this machine."""
    (tmp_path / "rows[1].jsonl").write_text("{}\n")

    assert [file.name for file in find_local(str(tmp_path / "rows[1].jsonl")) or ()] == ["rows[1].jsonl"]
    assert find_local(str(tmp_path / "none*.jsonl")) == []
    assert find_local("owner/name") is None
    assert name_files([]) == []
