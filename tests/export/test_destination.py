"""A command writes a new folder or an empty one, and nothing over what somebody has."""

from pathlib import Path

import pytest

from vlora.errors import RecipeError
from vlora.export.destination import find_destination


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """Neither a file nor a folder that holds anything; the folder beside the adapter is taken without --out."""
    assert find_destination(None, tmp_path / "peft") == tmp_path / "peft"
    assert find_destination(tmp_path, tmp_path / "peft") == tmp_path
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(RecipeError, match=r"^--out: .* is there already; give another folder, or remove it$"):
            find_destination(taken, tmp_path / "peft")
    with pytest.raises(RecipeError, match=r"^--out: a+ cannot be read or written \(.*\); give another folder$"):
        find_destination(Path("a" * 300), tmp_path / "peft")
