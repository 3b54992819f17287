"""Damaged kernels are found and deleted; sound ones, and those that are being written, stay."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vlora.compilation import soundness


def test_damaged_kernels_are_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a file, an empty one, other bytes than before: each is deleted, and no sound one is."""
    monkeypatch.setattr(soundness, "SETTLED_S", 0.2)
    library = Path(str(__import__("_ctypes").__file__)).read_bytes()
    folder, sums = tmp_path / "cpu", tmp_path / "sums.json"
    folder.mkdir()

    def drop() -> set[str]:
        return {file.name for file in soundness.drop_damaged(folder, sums, "*.so")}

    names = ["sound.so", "changed.so", "cut.so", "empty.so", "blank.so"]
    for name in names[:2]:
        (folder / name).write_bytes(library)
    (folder / "link.so").hardlink_to(folder / "sound.so")
    assert drop() == set()
    middle = len(library) // 2
    (folder / "changed.so").write_bytes(library[:middle] + bytes([library[middle] ^ 1]) + library[middle + 1 :])
    (folder / "cut.so").write_bytes(library[:-100])
    (folder / "empty.so").write_bytes(b"")
    (folder / "blank.so").write_bytes(bytes(len(library)))
    assert drop() == set(names[1:])
    assert {file.name for file in folder.iterdir()} == {"sound.so", "link.so"}
    (folder / "changed.so").write_bytes(library)
    sums.write_text("[" * 100_000)
    assert drop() == set()


@example(4)
@given(st.integers(0, 10**6))
def test_no_part_of_a_library_is_whole(n_bytes: int) -> None:
    """Wherever it ends."""
    library = Path(str(__import__("_ctypes").__file__)).read_bytes()
    assert not soundness.is_whole(library[: n_bytes % len(library)])
    assert soundness.is_whole(library)
    assert soundness.is_whole(b".visible .entry f() { {} }\n")
    assert not soundness.is_whole(b".visible .entry f() { {}")


def test_a_kernel_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's compiler is about to finish it."""
    library = Path(str(__import__("_ctypes").__file__)).read_bytes()
    (tmp_path / "made.so").write_bytes(library[:100])
    waits: list[float] = []

    def go_on(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            (tmp_path / "made.so").write_bytes(library)

    clock = SimpleNamespace(sleep=go_on, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(soundness, "time", clock)
    assert soundness.drop_damaged(tmp_path, tmp_path / "sums.json", "*.so") == []
    assert len(waits) == 3
