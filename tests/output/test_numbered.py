"""Which numbered checkpoints stay."""

from pathlib import Path

import pytest

from vlora.errors import RecipeError
from vlora.output.numbered import Numbered
from vlora.output.paths import OutputPaths
from vlora.recipe.parse import parse_recipe

ADAPTER = OutputPaths(folder=Path("out"), weights=Path("out/adapters.safetensors"))


def in_folder(folder: Path, *, is_adapter: bool) -> OutputPaths:
    """Say where a run writes that has three checkpoints, and write them."""
    paths = OutputPaths(folder=folder, weights=folder / ADAPTER.weights.name if is_adapter else folder)
    folder.mkdir()
    for step in (2, 4, 6):
        path = paths.numbered(step)
        for file in [path] if is_adapter else [path / name for name in ("config.json", "model.safetensors")]:
            file.parent.mkdir(exist_ok=True)
            file.write_text(str(step))
    return paths


def left(paths: OutputPaths) -> list[str]:
    """Name what is left of the checkpoints."""
    top = paths.folder if paths.is_adapter else paths.folder.parent
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file() or path.is_symlink())


@pytest.mark.parametrize("n_kept", [1, 2, 3, 9, None])
def test_the_newest_stay(n_kept: int | None, tmp_path: Path) -> None:
    """As many as are to be kept, and the others are forgotten."""
    paths, numbered = in_folder(tmp_path / "out", is_adapter=True), Numbered([2, 4, 6])
    expected = [2, 4, 6] if n_kept is None else [2, 4, 6][-n_kept:]

    assert numbered.keep_newest(n_kept, paths, set()) == []
    assert numbered.steps == expected
    assert left(paths) == [paths.numbered(step).name for step in expected]
    assert numbered.keep_newest(n_kept, paths, set()) == []
    assert len(left(paths)) == len(expected)


def test_a_models_folder_goes_with_its_files_alone(tmp_path: Path) -> None:
    """What somebody else has put into a model's folder stays, and the folder with it; it is no model any more."""
    paths = in_folder(tmp_path / "out", is_adapter=False)
    (paths.numbered(2) / "notes.txt").write_text("mine")
    numbered = Numbered([2, 4, 6], ("config.json", "model.safetensors"))

    assert numbered.keep_newest(1, paths, set()) == []
    assert left(paths) == ["out-0000002/notes.txt", "out-0000006/config.json", "out-0000006/model.safetensors"]
    assert not paths.numbered(4).exists()


@pytest.mark.parametrize("is_adapter", [True, False])
def test_links_stay_and_so_does_what_they_lead_to(is_adapter: bool, tmp_path: Path) -> None:
    """A run writes no links: one under the name of a checkpoint is somebody else's."""
    paths = in_folder(tmp_path / "out", is_adapter=is_adapter)
    other = tmp_path / "other"
    paths.numbered(2).rename(other)
    paths.numbered(2).symlink_to(other)
    before = left(paths)

    assert Numbered([2, 4, 6], ("config.json", "model.safetensors")).keep_newest(2, paths, set()) == []
    assert left(paths) == before
    assert other.exists()


def test_what_the_run_starts_from_stays(tmp_path: Path) -> None:
    """`--resume` reads it again."""
    paths, numbered = in_folder(tmp_path / "out", is_adapter=True), Numbered([2, 4, 6])

    assert numbered.keep_newest(1, paths, {paths.numbered(4).resolve()}) == []
    assert left(paths) == [paths.numbered(step).name for step in (4, 6)]
    assert numbered.steps == [6]


def test_names_of_files_lead_nowhere_else(tmp_path: Path) -> None:
    """Nothing outside of a checkpoint's folder is removed, whatever a state says."""
    paths = in_folder(tmp_path / "out", is_adapter=False)
    outside = tmp_path / "config.json"
    outside.write_text("mine")

    Numbered([2, 4, 6], ("../config.json",)).keep_newest(1, paths, set())
    assert outside.read_text() == "mine"


def test_one_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses ends no run."""
    paths, numbered = in_folder(tmp_path / "out", is_adapter=True), Numbered([2, 4, 6])

    def refuse(path: Path, **_: bool) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    (problem, _) = numbered.keep_newest(1, paths, set())
    assert problem == (
        f"{paths.numbered(2)}: output.keep_last lets it go, and it cannot be removed (Operation not permitted)"
    )


def test_a_state_says_which_there_are() -> None:
    """What is written is read again."""
    numbered = Numbered([2, 4], ("config.json",))

    assert Numbered.loads(numbered.dumps()) == numbered


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_one_stays_at_least(value: float) -> None:
    """Nothing to keep is no number."""
    with pytest.raises(RecipeError, match=r"output\.keep_last"):
        parse_recipe("", {"data.path": "rows", "output.keep_last": value})
