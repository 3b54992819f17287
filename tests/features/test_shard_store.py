"""Entries on disk: bit for bit, under a budget, shared by runs, and never trusted when broken."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.features import shard_format, shard_store
from vlora.models import ShardStore

TOWER, OTHER = "a" * 40, "b" * 40
AN_HOUR_AGO = 2 * shard_store.LEFT_ALONE_S
DTYPES = [mlx for mlx, _ in shard_format.TYPES.values()]


def opened(folder: Path, budget: int = 10**9, **options: Any) -> ShardStore:
    """Open the entries of one tower."""
    return ShardStore(folder, TOWER, budget, **options)


def entry(seed: int, size: int = 1000) -> dict[str, mx.array]:
    """Make an entry of two arrays."""
    return {"0": mx.random.normal((size,), key=mx.random.key(seed)), "1": mx.array([seed])}


def is_equal(found: dict[str, mx.array] | None, expected: dict[str, mx.array]) -> bool:
    """Whether an entry is there, bit for bit."""
    return (
        found is not None
        and found.keys() == expected.keys()
        and all(
            found[name].dtype == value.dtype
            and found[name].shape == value.shape
            and shard_format.array_bytes(found[name]) == shard_format.array_bytes(value)
            for name, value in expected.items()
        )
    )


def age(folder: Path) -> None:
    """Make the shards look as if no run had used them for a while."""
    for file in folder.rglob(f"*{shard_store.SUFFIX}"):
        used = file.stat().st_mtime - AN_HOUR_AGO
        os.utime(file, (used, used))


@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
def test_arrays_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, specs: list[Any]) -> None:
    """Any type and shape, bfloat16, scalars, empty and transposed arrays among them."""
    folder = tmp_path_factory.mktemp("shards")
    arrays = {}
    with mx.stream(mx.cpu):
        for number, (dtype, shape, turned) in enumerate(specs):
            value = (mx.arange(int(np.prod(shape))) % 7).reshape(shape).astype(dtype)
            arrays[str(number)] = value.T if turned else value
        mx.eval(arrays)
        first = opened(folder)
        first.add("key", arrays)

        assert is_equal(first.read("key"), arrays)
        first.flush()
        assert is_equal(first.read("key"), arrays)
        assert is_equal(opened(folder).read("key"), arrays)


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


def test_is_what_safetensors_readers_read(tmp_path: Path) -> None:
    """The files are ordinary safetensors."""
    subject = opened(tmp_path)
    subject.add("key", {"a": mx.array([1.5, 2.5], dtype=mx.bfloat16)})
    subject.flush()
    (file,) = tmp_path.rglob("*.safetensors")

    loaded: Any = mx.load(str(file))

    assert mx.array_equal(loaded["key:a"], mx.array([1.5, 2.5], dtype=mx.bfloat16))


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
        "from vlora.features.shard_store import Shards\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "subject = Shards(root, '0' * 40, 10**9)\n"
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
    assert [process.wait(timeout=100) for process in started] == [0, 0]
    after = ShardStore(tmp_path, "0" * 40, 10**9)

    for number in range(60):
        found = after.read_host(str(number))
        assert found is not None
        assert (found["0"] == number).all()
    assert not after.notes


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_shard_is_passed_over(tmp_path: Path, share: float) -> None:
    """Wherever it ends; the others are read, and the run says so."""
    first = opened(tmp_path)
    first.add("broken", entry(1))
    first.flush()
    (file,) = tmp_path.rglob("*.safetensors")
    first.add("sound", entry(2))
    first.flush()
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    after = opened(tmp_path)

    assert after.read("broken") is None
    assert is_equal(after.read("sound"), entry(2))
    assert [str(file) in note for note in after.notes] == [True]
    # One that is cut while it is in use, too.
    assert first.read("broken") is None


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_damaged_byte_gives_other_features(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    """Whichever byte of a shard is another one: an entry is the right one, or is not there."""
    folder = tmp_path_factory.mktemp("shards")
    first = opened(folder)
    for number in range(3):
        first.add(str(number), entry(number, 20))
    first.flush()
    (file,) = folder.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= change
    file.write_bytes(content)
    after = opened(folder)

    for number in range(3):
        found = after.read(str(number))
        assert found is None or is_equal(found, entry(number, 20))


def test_unfinished_shards_are_not_read(tmp_path: Path) -> None:
    """A shard that a run did not finish is passed over, and removed when its run must be long over."""
    first = opened(tmp_path)
    first.add("key", entry(1))
    first.flush()
    (file,) = tmp_path.rglob("*.safetensors")
    unfinished = file.with_name(f".{file.name}")
    file.rename(unfinished)

    assert opened(tmp_path).read("key") is None
    assert unfinished.exists()
    long_ago = unfinished.stat().st_mtime - 2 * shard_store.ABANDONED_S
    os.utime(unfinished, (long_ago, long_ago))
    opened(tmp_path)
    assert not unfinished.exists()


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(500, 8000))
def test_the_budget_is_of_the_folder(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], budget: int) -> None:
    """Whatever is written, by two runs and for two towers, the files stay under it, and a note says when it is full."""
    folder = tmp_path_factory.mktemp("shards")
    runs = [opened(folder, budget), ShardStore(folder, OTHER, budget)]
    for number, size in enumerate(sizes):
        run = runs[number % 2]
        run.add(str(number), entry(number, size))
        run.flush()

        assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) <= budget
    n_kept = sum(run.read(str(number)) is not None for number in range(len(sizes)) for run in runs)
    assert (n_kept == len(sizes)) == (not any(run.notes for run in runs))
    assert all(len(run.notes) <= 1 for run in runs)


def test_what_is_unused_makes_room(tmp_path: Path) -> None:
    """The shards longest unused go first, those that this run has used never."""
    first = opened(tmp_path, budget := 3 * 4400)
    for number in range(3):
        first.add(str(number), entry(number))
        first.flush()
        age(tmp_path)
    later = opened(tmp_path, budget)
    assert is_equal(later.read("0"), entry(0))
    age(tmp_path)
    later.add("3", entry(3))
    later.flush()

    assert "1" not in later
    assert all(is_equal(later.read(key), entry(int(key))) for key in "023")
    assert first.read("1") is None
    assert not later.notes


def test_room_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget beyond what the disk has ends with a note, not with a full disk."""
    subject = opened(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=shard_store.SPARE_BYTES + 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    subject.add("key", entry(1))
    subject.flush()

    assert not list(tmp_path.rglob("*.safetensors"))
    assert "key" not in subject
    assert len(subject.notes) == 1


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
        subject.flush(whole=False)
        assert all(is_equal(subject.read(str(other)), entry(other)) for other in range(number + 1))
    assert subject.add("more", entry(7))
    subject.flush()

    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    assert all(is_equal(subject.read(str(number)), entry(number)) for number in range(7))


def test_nothing_else_is_touched(tmp_path: Path) -> None:
    """A user's own files in the folder, models perhaps, are neither counted nor deleted, however old and large."""
    own = [tmp_path / "model.safetensors", tmp_path / "model" / "model.safetensors", tmp_path / TOWER / "a.safetensors"]
    for file in own:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(10_000))
        os.utime(file, (0, 0))
    subject = opened(tmp_path, 5000)
    subject.add("0", entry(0))
    subject.flush()
    age(tmp_path)
    later = opened(tmp_path, 5000)
    later.add("1", entry(1))
    later.flush()

    assert all(file.stat().st_size == 10_000 for file in own)
    assert "0" not in later
    assert is_equal(later.read("1"), entry(1))
    assert not later.notes


def written(folder: Path, tower: str = TOWER) -> tuple[ShardStore, Path]:
    """Write one entry; give who wrote it, and the file."""
    subject = ShardStore(folder, tower, 10**9)
    subject.add("key", entry(1))
    subject.flush()
    (file,) = subject.folder.glob("*.safetensors")
    return subject, file


def test_another_towers_shard_is_not_read(tmp_path: Path) -> None:
    """One that somebody has put into the wrong folder."""
    _, file = written(tmp_path, OTHER)
    target = opened(tmp_path).folder
    target.mkdir(exist_ok=True)
    shutil.copy(file, target / file.name)
    subject = opened(tmp_path)

    assert subject.read("key") is None
    assert len(subject.notes) == 1


def test_a_forged_shard_is_not_read(tmp_path: Path) -> None:
    """Right in all that can be seen, but made without the user's secret."""
    (tmp_path / "forger").mkdir()
    forger, file = written(tmp_path / "forger")
    subject, own = written(tmp_path / "own")
    own.unlink()
    # As if the forger knew the folder.
    shutil.copy(file, own)
    after = opened(tmp_path / "own")

    assert forger.folder.name != subject.folder.name
    assert after.read("key") is None
    assert ["other bytes than were written" in note for note in after.notes] == [True]


@pytest.mark.parametrize("how", ["mode", "owner", "link", "pipe"])
def test_a_foreign_file_is_not_read(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that others may have written is neither used nor deleted; the run says so once, and writes its own."""
    subject, file = written(tmp_path)
    if how == "mode":
        file.chmod(0o666)
    elif how == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif how == "pipe":
        file.unlink()
        os.mkfifo(file)
    after = opened(tmp_path)
    if how == "owner":
        found, real = file.lstat(), os.fstat
        changed = os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))
        monkeypatch.setattr(
            os, "fstat", lambda handle: changed if real(handle).st_ino == found.st_ino else real(handle)
        )
        assert subject.read("key") is not None or subject.notes
        after = opened(tmp_path)

    assert after.read("key") is None
    after.add("more", entry(2))
    after.flush()
    assert ["not used" in note for note in after.notes] == [True]
    assert os.path.lexists(file)
    assert is_equal(after.read("more"), entry(2))


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a secret that others may know, nor a link in the folder's place."""
    subject, _ = written(tmp_path / "linked")
    subject.folder.rename(tmp_path / "elsewhere")
    subject.folder.symlink_to(tmp_path / "elsewhere")
    (secret,) = (written(tmp_path / "known")[0].root).glob(".secret-*")
    secret.chmod(0o644)
    for name in ("linked", "known"):
        after = opened(tmp_path / name)
        assert after.read("key") is None
        assert not after.add("more", entry(2))
        assert ["features are kept in memory only" in note for note in after.notes] == [True]
    written(tmp_path / "own")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert opened(tmp_path / "own").read("key") is None


@given(st.data())
def test_no_header_is_believed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever stands in a header that fits its file: an entry is the right one, or is not there."""
    folder = tmp_path_factory.mktemp("shards")
    _, file = written(folder)
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    numbers = st.integers(-(2**65), 2**65) | st.integers(-2, 5000) | st.just(True)
    anything = numbers | st.none() | st.text(max_size=3) | st.lists(numbers, max_size=3) | st.floats()
    name = data.draw(st.sampled_from(sorted(header)))
    part = data.draw(st.sampled_from(sorted(header[name])))
    header[name][part] = data.draw(anything)
    text = json.dumps(header).encode()
    if data.draw(st.booleans()):
        text = data.draw(
            st.sampled_from([b"[" * 200_000, b"null", b"[]", b'{"__metadata__": {}}', b"\xff", b"1" * 5000])
        )
    claimed = data.draw(st.sampled_from([len(text), 2**63, len(text) + len(content)]))
    file.write_bytes(claimed.to_bytes(8, "little") + text + content[8 + length :])
    found = opened(folder).read("key")

    assert found is None or is_equal(found, entry(1))
