"""What a command says after an error, and the status that it ends with."""

import errno
import tempfile
from pathlib import Path

import pytest

from vlora.cli.failures import explain, naming_arguments
from vlora.cli.status import INTERRUPTED, UNFORESEEN, USER_ERROR
from vlora.errors import CheckpointError, RecipeError
from vlora.recipe.parse import parse_recipe


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        (RecipeError("train.iters: found 0"), "train.iters: found 0", USER_ERROR),
        (KeyboardInterrupt(), "ended by SIGINT", INTERRUPTED),
        (MemoryError(), "this command: out of host memory (Python could not get it)", USER_ERROR),
        (OSError(errno.ENOSPC, "No space left", "a/b"), "a/b: cannot be read or written (No space left)", USER_ERROR),
        (OSError(errno.ENOSPC, "No space left"), "there is no room left to write to (No space left)", USER_ERROR),
        (KeyError("a"), "unforeseen KeyError ('a')", UNFORESEEN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_kind_has_its_words(
    error: BaseException, words: str, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the user can mend ends with 2; notes of an error stand behind its words."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    error.add_note("--resume goes on from step 3")
    sentence, found = explain(error, [], None)

    assert sentence.startswith(words)
    assert sentence.endswith("; --resume goes on from step 3")
    assert found == status


def test_a_traceback_goes_to_the_output(tmp_path: Path) -> None:
    """Where the recipe names a folder that is there."""
    recipe = parse_recipe('[data]\npath = "rows"', {"output.path": str(tmp_path / "a.safetensors")})
    explain(KeyError("a"), ["a.toml"], recipe)

    assert "KeyError: 'a'" in (tmp_path / "vlora-error.txt").read_text()


def test_arguments_are_named_in_place_of_keys() -> None:
    """What an error is about, and nothing of what it says: that may be a file's name."""
    said = "a/model.path has no weights; give another"
    for key, begin in (("model.path", "--base: "), ("model.paths", "model.paths: "), (None, "")):
        with pytest.raises(CheckpointError) as caught, naming_arguments({"model.path": "--base"}):
            raise CheckpointError(said, key=key)
        assert str(caught.value) == f"{begin}{said}"
