"""Where the streams of a recipe begin: seeds and keys of each, the same turns for all."""

import json
from pathlib import Path

import pytest

from tests.data.streams import open_files, write_lines
from vlora.data.drawn_rows import draw_rows
from vlora.data.mixed_rows import mix_rows
from vlora.data.rows import RowDataset
from vlora.data.stream_cursor import StreamProgress
from vlora.data.stream_starts import check_files, find_keys, make_cursors, make_turns, parse_progress
from vlora.data.turns import EvenTurns, Turns
from vlora.errors import CheckpointError
from vlora.recipe.parse import parse_recipe


def test_each_source_has_a_key_and_a_seed(tmp_path: Path) -> None:
    """A single stream has those of the run."""
    keys = {"data.path": "x.jsonl", "data.streaming": True, "train.iters": 1, "train.seed": 5, "data.shuffle_buffer": 7}
    recipe = parse_recipe("", keys)
    rows = RowDataset(name="a", table=[], indices=(), stream=open_files(write_lines(tmp_path, (2, 2))))
    single, mixed = draw_rows(rows), draw_rows(mix_rows("a + a", [rows, rows], weights=[3, 1]))
    starts = [StreamProgress(), StreamProgress(n_given=3)]
    (alone,), several = make_cursors(recipe, single, starts[:1]), make_cursors(recipe, mixed, starts)

    assert (find_keys(single), find_keys(mixed)) == (["data"], ["data.sources[0]", "data.sources[1]"])
    assert (alone.seed, alone.key, alone.buffer_size) == (5, "data", 7)
    assert [cursor.key for cursor in several] == find_keys(mixed)
    assert len({5, *(cursor.seed for cursor in several)}) == 3
    assert several[1].start.n_given == 3
    assert make_turns(recipe, single) is None
    turns = make_turns(recipe, mixed)
    assert isinstance(turns, Turns)
    assert (turns.shares, turns.seed) == ((0.75, 0.25), 5)
    even = draw_rows(mix_rows("a + a", [rows, rows]))
    assert find_keys(even) == find_keys(mixed)
    assert [cursor.seed for cursor in make_cursors(recipe, even, starts)] == [cursor.seed for cursor in several]
    assert make_turns(recipe, even) == EvenTurns(seed=5, shuffle=True)
    dumped = [start.dump(stream) for start, stream in zip(starts, mixed.streams, strict=True)]
    assert parse_progress(dumped, mixed, allows_changes=False) == starts


def test_files_are_known_by_their_names(tmp_path: Path) -> None:
    """Of a single stream and of each source; what is no state of streams is left to others."""
    told = [open_files(write_lines(tmp_path / name, (2, 2))) for name in ("a", "b")]
    dumped = [StreamProgress(epoch=1).dump(stream) for stream in told]
    longer = open_files(write_lines(tmp_path / "b", (2, 2, 2)))

    check_files(json.dumps(dumped[1]), told[1:], is_mixture=False)
    check_files(json.dumps({"sources": dumped}), told, is_mixture=True)
    for other in ("", "[1]", "{}", '{"sources": [1]}'):
        check_files(other, told, is_mixture=True)
    with pytest.raises(CheckpointError, match=r"^data\.path: its files have other names"):
        check_files(json.dumps(dumped[1]), [longer], is_mixture=False)
    with pytest.raises(CheckpointError, match=r"^data\.sources\[1\]\.path: its files .* begin anew without --resume"):
        check_files(json.dumps({"sources": dumped}), [told[0], longer], is_mixture=True)
