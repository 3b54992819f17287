"""Rows that were learned: known again when a run goes on, and refused where they have changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.run.test_bad_rows import write_rows
from tests.runs import losses, make_recipe, run
from tests.training import picture
from vlora.data.opening import read_rows
from vlora.data.rows import RowDataset
from vlora.errors import CheckpointError
from vlora.events import Warned
from vlora.output.paths import STATE_NAME
from vlora.recipe.schema import DataSection
from vlora.run import consumed, unchanged
from vlora.run.consumed import NAME, digest_row

CheckpointFactory = Callable[[str], Path]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


def learn(rows: RowDataset, folder: Path, numbers: list[int]) -> int:
    """Take note of rows as if they had been learned; give what a state would say of it."""
    learned = consumed.begin(folder / NAME, len(rows))
    learned.add(consumed.mark_row(number, *rows.read(number)) for number in numbers)
    return learned.write()


def change(rows: RowDataset, folder: Path, n_bytes: int) -> list[str]:
    """Say what has changed."""
    return unchanged.go_on(folder / NAME, n_bytes, rows)[1]


@given(VALUES, VALUES)
def test_rows_are_equal_if_their_digests_are(one: Any, other: Any) -> None:
    """What stands in a row decides, wherever it stands."""
    assert digest_row({"a": one}) == digest_row({"a": one})
    assert (digest_row({"a": one}) == digest_row({"a": other})) == (repr(one) == repr(other))
    assert digest_row({"a": one}) != digest_row({"b": one})


@pytest.mark.parametrize("place", [0, 100, 5_000, 50_000, 99_999])
def test_bytes_count_at_both_ends(place: int) -> None:
    """Pictures within a row are known by their number of bytes, both their ends and a part of what is between."""
    data = bytearray(100_000)
    before = digest_row({"image": {"bytes": bytes(data)}})
    data[place - place % (len(data) // consumed.SAMPLED_BYTES) if 4_096 < place < 95_000 else place] ^= 1
    assert digest_row({"image": {"bytes": bytes(data)}}) != before
    assert digest_row({"image": {"bytes": bytes(99_999)}}) != digest_row({"image": {"bytes": bytes(100_000)}})
    array = np.zeros((4, 4))
    assert digest_row([array]) == digest_row([array.copy()]) != digest_row([array + 1])


def test_what_a_state_does_not_know_of_is_written_anew(tmp_path: Path) -> None:
    """Behind what a state says the file may have more, whole or not; with less it is not what was written."""
    rows, _ = read_rows(DataSection(path=str(write_rows(tmp_path, "rows"))))
    n_bytes = learn(rows, tmp_path, [0, 1])
    file = tmp_path / NAME
    whole = file.read_text()
    file.write_text(f'{whole}[3, "a')
    learned, changed = unchanged.go_on(file, n_bytes, rows)
    assert (changed, learned.is_known.tolist()) == ([], [True, True, False, False, False])
    learned.add(consumed.mark_row(number, *rows.read(number)) for number in (1, 4))
    assert int(learned.write()) == file.stat().st_size
    assert file.read_text().startswith(whole)
    assert [json.loads(line)[0] for line in file.read_text().splitlines()] == [0, 1, 4]

    for text in (whole[:-1], whole.replace("[0,", "[9,"), whole.replace('"', "'")):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=r"learned\.jsonl: is not what the run has written"):
            unchanged.go_on(file, n_bytes, rows)
    assert unchanged.go_on(file, 0, rows)[1] == []


class CountingTable(list[dict[str, Any]]):
    """Rows that count how often they are read."""

    n_reads = 0

    def __getitem__(self, index: Any) -> Any:
        """Read a row."""
        self.n_reads += 1
        return super().__getitem__(index)


def test_a_row_is_read_once(tmp_path: Path) -> None:
    """What it is known by needs no second look at the table."""
    rows, _ = read_rows(DataSection(path=str(write_rows(tmp_path, "rows"))))
    table = CountingTable(dict(rows.table[number]) for number in range(len(rows)))
    rows = attrs.evolve(rows, table=table)
    row, sample = rows.read(1)
    mark = consumed.mark_row(1, row, sample)
    assert table.n_reads == 1
    assert mark.digest == digest_row(rows.table[int(rows.indices[1])])


def test_looking_at_rows_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is digested once and each of its files looked at once, so that 100,000 rows take seconds."""
    picture(8, 8).save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "What is it?", "answer": "It is this."}
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**row, "n": n}) for n in range(20)))
    rows, _ = read_rows(DataSection(path=str(tmp_path / "rows.jsonl")))
    n_bytes = learn(rows, tmp_path, list(range(20)))
    asked: list[str] = []
    for name in ("digest_row", "look_at"):
        monkeypatch.setattr(unchanged, name, _noting(asked, name, getattr(unchanged, name)))
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was read"))

    assert change(rows, tmp_path, n_bytes) == []
    assert sorted(asked) == ["digest_row"] * 20 + ["look_at"] * 20


def _noting(asked: list[str], name: str, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def note(value: Any) -> Any:
        asked.append(name)
        return call(value)

    return note


@pytest.mark.parametrize("batching", ["shuffled", "packed"])
def test_a_run_goes_on_with_the_rows_that_it_learned(
    batching: str, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """A picture that has changed is refused before the model is loaded, unless the recipe allows it."""
    rows, out = write_rows(tmp_path, "rows"), tmp_path / "out"
    options = {"train__batching": batching, "train__batch_size": 1, "data__shuffle": False, "data__max_seq_length": 64}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, out, **options)
    calls = iter([False, True])
    first = losses(run(recipe, should_stop=lambda: next(calls)))
    assert len(first) == 2
    learned = [json.loads(line)[0] for line in (out / STATE_NAME).with_name(NAME).read_text().splitlines()]
    assert len(learned) >= 2

    os.utime(tmp_path / f"rows-{learned[0]}.png", ns=(1, 1))
    with pytest.raises(
        CheckpointError,
        match=rf"1 of the rows that were learned have changed since, rows\.jsonl train: row {learned[0]} "
        r"\(.*\.png\); .* --set data\.allow_changed_rows=true",
    ):
        run(recipe, resume=True)
    allowing = attrs.evolve(recipe, data=attrs.evolve(recipe.data, allow_changed_rows=True))
    events = run(allowing, resume=True)
    assert len(losses(events)) == 4
    assert any(isinstance(event, Warned) and "allow_changed_rows" in event.message for event in events)
