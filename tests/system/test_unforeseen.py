"""What nobody has foreseen ends in one sentence; the traceback is in a file, and on the terminal with --debug."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlora.cli.main import main
from vlora.system import unforeseen

ERRORS: list[BaseException] = [
    RecursionError("maximum recursion depth exceeded"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    OverflowError("Python int too large to convert to C int"),
    ValueError("embedded null byte"),
    KeyError("hidden_size"),
    RuntimeError("several\nlines\n\nof text " + "x" * 1000),
    OSError(errno.EIO, "Input/output error"),
    AssertionError(),
]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run a recipe whose training raises an error; what is temporary goes into a folder of its own."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def run(error: BaseException, *arguments: str) -> int:
        def train(*_: Any, **__: Any) -> int:
            raise error

        monkeypatch.setattr("vlora.cli.train.train", train)
        return main(["--dataset", "builtin:digits", f"--output-path={tmp_path}/run/a.safetensors", *arguments])

    return run


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_one_sentence(
    error: Exception, failing: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is raised: status 1, one line, and a file in the output's folder that holds the traceback."""
    (tmp_path / "run").mkdir()
    assert failing(error) == 1
    said = capsys.readouterr()

    file = tmp_path / "run" / "vlora-error.txt"
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert type(error).__name__ in said.err
    assert str(file) in said.err
    assert "at vlora/cli/main.py:" in said.err
    assert "Traceback (most recent call last)" in file.read_text()
    assert "--dataset builtin:digits" in file.read_text()


def test_debug_shows_the_traceback(failing: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """With --debug it stands before the sentence, for mistakes of the user's too."""
    assert failing(KeyError("a"), "--debug") == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last)")
    assert said.splitlines()[-1].startswith("vlora: unforeseen KeyError")

    assert main(["--dataset", "builtin:digits", "--lora-rank", "-3", "--debug"]) == 2
    assert "RecipeError" in capsys.readouterr().err


def test_without_a_folder_the_file_is_a_temporary_one(
    failing: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder is made for it, and one that cannot be named is no second error."""
    assert failing(KeyError("a")) == 1
    assert not (tmp_path / "run").exists()
    assert failing(KeyError("a"), "--output-path=a\0b") in (1, 2)
    files = list((tmp_path / "temporary").iterdir())
    assert files
    assert str(files[0].parent) in capsys.readouterr().err


def test_nothing_is_written_over(failing: Callable[..., int], tmp_path: Path) -> None:
    """A file of an earlier error stays, and a link that somebody has planted is not followed."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "theirs").write_text("theirs")
    (folder / "vlora-error.txt").symlink_to(tmp_path / "theirs")
    (folder / "vlora-error-2.txt").write_text("earlier")
    failing(KeyError("a"))

    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (folder / "vlora-error-2.txt").read_text() == "earlier"
    assert "KeyError" in (folder / "vlora-error-3.txt").read_text()


def test_no_memory_and_no_reader_are_no_faults(
    failing: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lack of memory is told as one; an interrupt and a closed pipe end with the status that a shell knows."""
    assert failing(MemoryError()) == 2
    assert "out of host memory" in capsys.readouterr().err
    assert failing(KeyboardInterrupt()) == 130
    assert "SIGINT" in capsys.readouterr().err

    closed = os.open(os.devnull, os.O_WRONLY)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout.fileno", lambda: closed, raising=False)
        assert failing(BrokenPipeError(errno.EPIPE, "Broken pipe")) == 141
    os.close(closed)
    assert capsys.readouterr().err == ""


def test_secrets_stay_where_they_are() -> None:
    """A traceback that may be passed on has no passwords; the rest of it is as it was."""
    found = unforeseen.show(ValueError("cannot open https://me:sesame@example.org/a.png with hf_sesamesesame"))

    assert "sesame" not in found
    assert found.endswith("cannot open https://***@example.org/a.png with ***\n")
    assert unforeseen.describe(ValueError("see https://example.org/a?sig=sesame now")).endswith("/a?*** now)")


def test_the_place_is_in_vlora(tmp_path: Path) -> None:
    """An error of a library is placed at vlora's own line that led there; one from elsewhere has none."""
    assert "vlora/" not in unforeseen.describe(KeyError("a"))
    with pytest.raises(TypeError) as caught:
        unforeseen.report(KeyError("a"), None, tmp_path)  # type: ignore[arg-type]
    assert "at vlora/system/unforeseen.py:" in unforeseen.describe(caught.value)


def test_a_long_value_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """An option's value of thousands of characters is cut in the complaint."""
    with pytest.raises(SystemExit, match="2"):
        main(["--dataset", "builtin:digits", "--iters", "9" * 5000])
    assert "--iters" in (said := capsys.readouterr().err)
    assert max(map(len, said.splitlines())) < 1000
