"""Rows that were learned are compared with what they were."""

import os
from pathlib import Path

from tests.run.test_bad_rows import write_rows
from tests.run.test_consumed import change, learn
from tests.training import picture
from vlora.data.opening import read_rows
from vlora.recipe.schema import DataSection
from vlora.run import unchanged
from vlora.run.consumed import NAME


def test_only_what_was_learned_is_looked_at(tmp_path: Path) -> None:
    """Another text, another size, another time or no file is a change; of rows that were not learned nothing is."""
    file = write_rows(tmp_path, "rows")
    rows, _ = read_rows(DataSection(path=str(file)))
    n_bytes = learn(rows, tmp_path, [0, 1, 2, 2])
    assert len((tmp_path / NAME).read_text().splitlines()) == 3
    assert change(rows, tmp_path, n_bytes) == []

    picture(48, 32, 9).save(tmp_path / "rows-4.png")
    assert change(rows, tmp_path, n_bytes) == []
    os.utime(tmp_path / "rows-1.png", ns=(1, 1))
    (tmp_path / "rows-2.png").unlink()
    lines = file.read_text().splitlines()
    lines[0] = lines[0].replace("What is", "What's")
    file.write_text("\n".join(lines))
    rows, _ = read_rows(DataSection(path=str(file)))
    changed = change(rows, tmp_path, n_bytes)
    assert changed == [
        "row 0 (what stands in it)",
        f"row 1 ({tmp_path / 'rows-1.png'})",
        f"row 2 ({tmp_path / 'rows-2.png'})",
    ]
    assert unchanged.describe_changes(changed * 2, "rows.jsonl").endswith(" and 2 more")
