"""Entries on disk: bit for bit, under a budget, shared by runs, and never trusted when broken."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.features.shards import entry, is_equal, opened
from vlora.features import shard_store
from vlora.features.shard_folder import DeviceMark, ShardFolder
from vlora.features.shard_format import Seal, read_header
from vlora.features.shard_store import MOST_WAITING, MOST_WRITERS
from vlora.models import ShardStore


def test_one_entry_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard's other entries are not read with it."""
    subject = opened(tmp_path)
    for number in range(20):
        subject.add(str(number), entry(number))
    subject.flush()
    sizes: list[int] = []
    frombuffer = np.frombuffer

    def noting(data: bytes, **kind: Any) -> Any:
        sizes.append(len(data))
        return frombuffer(data, **kind)

    monkeypatch.setattr(np, "frombuffer", noting)

    assert is_equal(opened(tmp_path).read("7"), entry(7))
    assert sum(sizes) == sum(value.nbytes for value in entry(7).values())
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_runs_share_a_folder(tmp_path: Path) -> None:
    """Two that are open at once find each other's shards when they write; what both have is written once."""
    one, two = opened(tmp_path), opened(tmp_path)
    for number in range(4):
        one.add(str(number), entry(number))
    one.flush()
    for number in range(2, 6):
        two.add(str(number), entry(number))
    two.flush()
    third = opened(tmp_path)

    assert all(is_equal(two.read(str(number)), entry(number)) for number in range(6))
    assert all(is_equal(third.read(str(number)), entry(number)) for number in range(6))
    assert third.written_bytes < 6.5 * sum(value.nbytes for value in entry(0).values())


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Real ones, that write the same keys into the same folder in small shards at the same time."""
    code = (
        "import sys, time, pathlib, types, numpy as np\n"
        # The modules alone: all of the package takes seconds to import.
        f"package = pathlib.Path({shard_store.__file__!r}).parent.parent\n"
        "for name, path in (('vlora', package), ('vlora.features', package / 'features')):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [str(path)]\n"
        "from vlora.features.shard_store import ShardStore\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "subject = ShardStore(root, '0' * 40, 10**9)\n"
        "(root / sys.argv[2]).touch()\n"
        "while len(list(root.glob('ready*'))) < 2: time.sleep(0.001)\n"
        "for number in range(60):\n"
        "    subject.add(str(number), {'0': np.full(500, number)})\n"
        "    subject.flush()\n"
        "    found = subject.read_host(str(number))\n"
        "    assert found is not None and (found['0'] == number).all()\n"
        "assert not subject.notes, subject.notes\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"ready{which}"], cwd=Path(__file__).parents[2])
        for which in "ab"
    ]
    assert [process.wait(timeout=600) for process in started] == [0, 0]
    after = ShardStore(tmp_path, "0" * 40, 10**9)

    for number in range(60):
        found = after.read_host(str(number))
        assert found is not None
        assert (found["0"] == number).all()
    assert not after.notes


def test_a_disk_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while writing ends the writing, not the run, and leaves nothing half behind."""
    (tmp_path / "file").write_text("no folder")
    nowhere = opened(tmp_path / "file")
    nowhere.add("key", entry(1))
    nowhere.flush()
    assert ["cannot be written" in note for note in nowhere.notes] == [True]
    subject = opened(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    subject.add("key", entry(1))
    subject.flush()
    subject.add("other", entry(2))
    subject.flush()

    assert subject.read("key") is None
    assert not list(tmp_path.rglob("*.safetensors"))
    assert ["No space left on device" in note for note in subject.notes] == [True]


def test_entries_are_written_when_a_shard_has_come_together(tmp_path: Path) -> None:
    """Not one file for each."""
    subject = opened(tmp_path, shard_bytes=10_000)
    for number in range(7):
        subject.add(str(number), entry(number))
        subject.advance()
        assert all(is_equal(subject.read(str(other)), entry(other)) for other in range(number + 1))
    assert subject.add("more", entry(7))
    subject.flush()

    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    assert all(is_equal(subject.read(str(number)), entry(number)) for number in range(7))


def test_steps_do_not_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that stay in memory are written behind them: only `flush` waits."""
    subject = opened(tmp_path, shard_bytes=10_000)
    may_write, written = threading.Event(), []
    write = ShardFolder.write

    def slow(folder: ShardFolder, entries: Any) -> str | None:
        assert may_write.wait(60)
        written.append(len(entries))
        return write(folder, entries)

    monkeypatch.setattr(ShardFolder, "write", slow)
    for number in range(40):
        subject.postpone({str(number): entry(number)})
        # It would never return if it waited for the disk.
        subject.advance()
        assert str(number) in subject
        assert is_equal(subject.read(str(number)), entry(number))
    assert not written
    may_write.set()
    subject.flush()

    assert sum(written) == 40
    assert len(written) > 5
    later = opened(tmp_path)
    assert all(is_equal(later.read(str(number)), entry(number)) for number in range(40))


@pytest.mark.parametrize("device", [None, DeviceMark("0" * 16, 1)])
def test_several_shards_are_written_at_a_time_where_steps_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: DeviceMark | None
) -> None:
    """They wait for one another here, and fail if they are written one by one: by `flush`, and of several devices."""
    subject = ShardStore(tmp_path, "tower", 10**9, device, shard_bytes=1)
    n_shards = 2 * MOST_WRITERS
    together, found = threading.Barrier(MOST_WRITERS), []
    write = ShardFolder.write

    def meet(folder: ShardFolder, entries: Any) -> str | None:
        try:
            together.wait(20)
        except threading.BrokenBarrierError:
            return "written alone"
        found.append(all(str(number) in subject for number in range(n_shards)))
        return write(folder, entries)

    monkeypatch.setattr(ShardFolder, "write", meet)
    for number in range(n_shards):
        subject.postpone({str(number): entry(number)})
    n_begun = MOST_WRITERS if device else 0
    for _ in range(n_begun):
        subject.advance()
    assert len(subject._groups) == n_shards - n_begun
    subject.flush()

    assert subject.drain_warnings() == []
    assert found == [True] * n_shards
    later = ShardStore(tmp_path, "tower", 10**9, device)
    assert all(is_equal(later.read(str(number)), entry(number)) for number in range(n_shards))


def test_entries_of_a_batch_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for one another here, and fail if they are read one by one; what is nowhere is left out."""
    keys = [str(number) for number in range(3)]
    subject = opened(tmp_path)
    for key in keys:
        subject.add(key, entry(int(key)))
    subject.flush()
    together, read = threading.Barrier(len(keys)), ShardFolder.read

    def meet(folder: ShardFolder, key: str) -> Any:
        together.wait(20)
        return read(folder, key)

    later = opened(tmp_path)
    monkeypatch.setattr(ShardFolder, "read", meet)
    found = later.read_all(keys)
    monkeypatch.undo()

    assert all(is_equal(found[key], entry(int(key))) for key in keys)
    assert later.read_all(["9", "1"]).keys() == {"1"}


def test_sums_of_a_shard_are_made_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for one another here, and fail if they are made one by one; each entry has its own."""
    together, make_sum = threading.Barrier(3), Seal.sum

    def meet(seal: Seal, key: str, arrays: Any) -> str:
        together.wait(20)
        return make_sum(seal, key, arrays)

    subject = opened(tmp_path)
    monkeypatch.setattr(Seal, "sum", meet)
    for number in range(3):
        subject.add(str(number), entry(number))
    subject.flush()
    monkeypatch.undo()

    later = opened(tmp_path)
    assert all(is_equal(later.read(str(number)), entry(number)) for number in range(3))


def test_a_shard_is_written_while_the_interpreter_ends(tmp_path: Path) -> None:
    """Threads that write are waited for then, and begin no others."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.features.shards import entry, opened\n"
        "from vlora.features.shard_folder import ShardFolder\n"
        "look = ShardFolder.look\n"
        "subject = opened(Path(sys.argv[1]), shard_bytes=1)\n"
        "ShardFolder.look = lambda folder: (time.sleep(1), look(folder))\n"
        "for number in range(3): subject.add(str(number), entry(number))\n"
        "subject.advance()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")
    later = opened(tmp_path)
    assert all(is_equal(later.read(str(number)), entry(number)) for number in range(3))


def test_a_damaged_shard_is_told_of_once(tmp_path: Path) -> None:
    """By several threads that read entries of it at once."""
    subject = opened(tmp_path)
    for number in range(8):
        subject.add(str(number), entry(number, 300_000))
    subject.flush()
    (file,) = subject.shards.path.glob("*.safetensors")
    whole = bytearray(file.read_bytes())
    # The last half of the file has something of each of the last entries.
    for place in range(len(whole) // 2, len(whole), 1000):
        whole[place] ^= 1
    file.write_bytes(whole)
    later = opened(tmp_path)

    assert len(later.read_all([str(number) for number in range(8)])) < 8
    assert len(later.drain_warnings()) == 1


@pytest.mark.parametrize("n_shards", [1, 3, 6])
def test_shards_that_are_written_together_keep_the_budget(tmp_path: Path, n_shards: int) -> None:
    """Each counts as a whole from its beginning, and what has no room is told once."""
    one = opened(tmp_path / "one", shard_bytes=1)
    one.add("0", entry(0))
    one.flush()
    size = sum(file.stat().st_size for file in (tmp_path / "one").rglob("*.safetensors"))
    budget = n_shards * size + size // 2
    subject = ShardStore(tmp_path / "many", "tower", budget, shard_bytes=1)
    for number in range(9):
        subject.postpone({str(number): entry(number)})
    subject.flush()

    files = list((tmp_path / "many").rglob("*.safetensors"))
    assert len(files) == n_shards
    assert sum(file.stat().st_size for file in files) <= budget
    assert len(subject.drain_warnings()) == 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(500, 20_000), st.booleans())
def test_what_was_computed_together_is_in_one_shard(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], shard_bytes: int, is_in_memory: bool
) -> None:
    """Wherever a shard is full: a run that was killed finds all features of a batch or none."""
    folder = tmp_path_factory.mktemp("shards")
    subject = opened(folder, shard_bytes=shard_bytes)
    for number, size in enumerate(sizes):
        group = {f"{number}/{member}": entry(member, 20 + number) for member in range(size)}
        (subject.postpone if is_in_memory else subject.add_computed)(group)
        subject.advance()
    subject.flush()

    found = [sorted(read_header(file)[0]) for file in folder.rglob("*.safetensors")]
    for number, size in enumerate(sizes):
        shards = [shard for shard in found if any(key.startswith(f"{number}/") for key in shard)]
        assert len(shards) == 1
        assert {f"{number}/{member}" for member in range(size)} <= set(shards[0])


def test_what_is_nowhere_else_waits_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of entries that did not fit in memory wait for the disk from a few shards on."""
    subject = opened(tmp_path, shard_bytes=10_000)
    most = 0
    write = ShardFolder.write

    def slow(folder: ShardFolder, entries: Any) -> str | None:
        time.sleep(0.02)
        return write(folder, entries)

    monkeypatch.setattr(ShardFolder, "write", slow)
    size = sum(value.nbytes for value in entry(0).values())
    for number in range(60):
        subject.add_computed({str(number): entry(number)})
        subject.advance()
        most = max(most, subject._waiting_bytes)
    subject.flush()

    assert most <= (MOST_WAITING * 10_000) + size
    later = opened(tmp_path)
    assert all(is_equal(later.read(str(number)), entry(number)) for number in range(60))


def test_a_full_disk_ends_what_was_postponed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And `flush` returns."""
    subject = opened(tmp_path, shard_bytes=10_000)
    monkeypatch.setattr(ShardFolder, "write", lambda *_: "no room")
    for number in range(20):
        subject.postpone({str(number): entry(number)})
        subject.advance()
    subject.flush()

    assert subject.drain_warnings() == ["no room"]
    assert "19" not in subject
