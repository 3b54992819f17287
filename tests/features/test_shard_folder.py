"""A folder of shards: what is damaged, unfinished or another user's is not read, and room is made within the budget."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.features.shards import OTHER, TOWER, entry, is_equal, opened, written
from vlora.features import shard_folder
from vlora.features.shard_folder import DeviceMark
from vlora.models import ShardStore

AN_HOUR_AGO = 2 * shard_folder.LEFT_ALONE_S


def age(folder: Path) -> None:
    """Make the shards look as if no run had used them for a while."""
    for file in folder.rglob(f"*{shard_folder.SUFFIX}"):
        used = file.stat().st_mtime - AN_HOUR_AGO
        os.utime(file, (used, used))


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


def test_devices_of_a_run_have_features_of_their_own(tmp_path: Path) -> None:
    """What another device has computed in the run is not taken, whenever it was written; what other runs have is."""
    folder, output = tmp_path / "features", tmp_path / "output"
    first, second = (opened(folder, device=DeviceMark.of(output, rank)) for rank in range(2))
    first.add("a", entry(1))
    first.flush()
    second.add("a", entry(2))
    second.flush()
    second.add("b", entry(3))
    second.flush()

    first, second, third = (opened(folder, device=DeviceMark.of(output, rank)) for rank in range(3))
    assert is_equal(first.read("a"), entry(1))
    assert is_equal(second.read("a"), entry(2))
    assert first.read("b") is None
    assert third.read("a") is None
    for other in (opened(folder), opened(folder, device=DeviceMark.of(tmp_path / "another", 0))):
        assert is_equal(other.read("b"), entry(3))


def test_devices_take_what_others_have_written_until_then(tmp_path: Path) -> None:
    """Of their own entry and others' a device keeps its own, of several others' that of the least rank."""
    folder, output = tmp_path / "features", tmp_path / "output"
    first, second, third = (opened(folder, device=DeviceMark.of(output, rank)) for rank in range(3))
    written = ((second, "a", 2), (first, "a", 1), (second, "b", 3), (second, "c", 4), (third, "c", 5))
    for device, key, value in written:
        device.add(key, entry(value))
        device.flush()
    for device in (first, second, third):
        device.take_others()

    for device, of_a in ((first, 1), (second, 2), (third, 1)):
        assert is_equal(device.read("a"), entry(of_a))
    for device, of_c in ((first, 4), (second, 4), (third, 5)):
        assert is_equal(device.read("b"), entry(3))
        assert is_equal(device.read("c"), entry(of_c))
    # What others write later is not taken, and what was taken stays when the folder is looked at again.
    second.add("d", entry(6))
    second.flush()
    first.add("e", entry(7))
    first.flush()
    assert first.read("d") is None
    assert is_equal(first.read("b"), entry(3))


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
    """A shard that nobody finishes is passed over, and removed by the next run, also when that one makes room."""
    _, file = written(tmp_path)
    during = opened(tmp_path, 2 * file.stat().st_size)
    unfinished = file.rename(file.with_name(f".{file.name}"))

    during.add("other", entry(2))
    during.flush()
    assert not unfinished.exists()
    assert is_equal(during.read("other"), entry(2))

    unfinished.write_bytes(b"x")
    assert opened(tmp_path).read("key") is None
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
    usage = shutil.disk_usage(tmp_path)._replace(free=shard_folder.SPARE_BYTES + 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    subject.add("key", entry(1))
    subject.flush()

    assert not list(tmp_path.rglob("*.safetensors"))
    assert "key" not in subject
    assert len(subject.notes) == 1


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


def test_another_towers_shard_is_not_read(tmp_path: Path) -> None:
    """One that somebody has put into the wrong folder."""
    _, file = written(tmp_path, OTHER)
    target = opened(tmp_path).shards.path
    target.mkdir(exist_ok=True)
    shutil.copy(file, target / file.name)
    subject = opened(tmp_path)

    assert subject.read("key") is None
    assert len(subject.notes) == 1


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
    subject.shards.path.rename(tmp_path / "elsewhere")
    subject.shards.path.symlink_to(tmp_path / "elsewhere")
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
