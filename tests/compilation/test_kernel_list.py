"""Kernels that runs are known to need."""

from pathlib import Path

import pytest

from vlora.compilation import kernel_list
from vlora.compilation.kernel_list import (
    KNOWN_KERNELS,
    MLX_VERSION,
    PREFERENCE_KERNELS,
    Known,
    list_missing,
    lists_for,
    read_known,
)
from vlora.compilation.kernel_names import INDEXING, parse_constant
from vlora.compilation.rebuild import rebuild


def test_the_list_is_of_one_version_of_mlx(tmp_path: Path) -> None:
    """Another one names its kernels otherwise."""
    file = tmp_path / "known.tsv"
    line = 'cpu\tname\t00ff\t["float32 0.5"]\n'
    file.write_text(f"# {MLX_VERSION}\n{line}")
    assert list(read_known(file)) == [Known("cpu", "name", "00ff", ("float32 0.5",))]
    file.write_text(f"# {MLX_VERSION}\ncuda\tname\t\t[]\tF32\n")
    assert list(read_known(file)) == [Known("cuda", "name", "", (), "F32")]
    file.write_text(f"# 0.1.0\n{line}")
    assert not list(read_known(file))


@pytest.mark.parametrize(
    ("weights", "names"),
    [("", ["all", "half"]), ("BF16", ["all", "half"]), ("U32", ["all", "half"]), ("F32", ["all", "exact"])],
)
def test_only_kernels_for_the_weights_are_missing(
    weights: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the list would be compiled in vain by a run of bfloat16 weights."""
    listed = [
        Known("cuda", "all", "", ()),
        Known("cuda", "exact", "", (), "F32"),
        Known("cuda", "half", "", (), "BF16"),
        Known("cpu", "other", "", ()),
    ]
    monkeypatch.setattr(kernel_list, "read_known", lambda _: listed)

    assert [known.name for known in list_missing("cuda", tmp_path, weights)] == names


def test_what_is_there_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel is known by its file."""
    listed = [Known("cpu", "one", "", ()), Known("cpu", "two", "", ())]
    monkeypatch.setattr(kernel_list, "read_known", lambda _: listed)
    (tmp_path / "libone.so").touch()

    assert list_missing("cpu", tmp_path) == listed[1:]


def test_runs_over_preferences_need_more() -> None:
    """What they need besides is in no other list, spells what can be made again, and is not compiled for other runs."""
    known = {(kernel.kind, kernel.name) for kernel in read_known(KNOWN_KERNELS)}
    more = list(read_known(PREFERENCE_KERNELS))

    assert more
    assert not known & {(kernel.kind, kernel.name) for kernel in more}
    for kernel in more:
        assert INDEXING.fullmatch(kernel.name) or rebuild(kernel.name, [parse_constant(c) for c in kernel.constants])
    assert lists_for("sft") == (KNOWN_KERNELS,)
    assert lists_for("dpo") == lists_for("kto") == (KNOWN_KERNELS, PREFERENCE_KERNELS)
