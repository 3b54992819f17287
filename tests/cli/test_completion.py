"""Completion in the shells themselves, where they are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from vlora.cli.completion import WRITERS, find_words
from vlora.cli.main import COMMANDS, main
from vlora.recipe.parse import all_keys

BASH = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={place}
_vlora
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def complete(shell: str, line: str, folder: Path) -> list[str]:
    """Give what a shell offers for the last word of a line."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = folder / f"vlora.{shell}"
    script.write_text(WRITERS[shell](find_words(COMMANDS)))
    if shell == "bash":
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        code = BASH.format(script=script, words=quoted, place=len(words) - 1)
    else:
        code = f"source {script}; complete -C '{line}'"
    done = subprocess.run([program, "-c", code], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    return [offered.partition("\t")[0] for offered in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_what_is_offered(shell: str, tmp_path: Path) -> None:
    """Commands, recipes of the folder, options of the command, keys, recipes that come with vlora."""
    (tmp_path / "mine.toml").touch()
    (tmp_path / "rows.jsonl").touch()

    assert complete(shell, "vlora pl", tmp_path) == ["plan"]
    assert "mine.toml" in complete(shell, "vlora m", tmp_path)
    assert "mine.toml" in complete(shell, "vlora inspect m", tmp_path)
    assert "plan" not in complete(shell, "vlora inspect p", tmp_path)
    if shell == "bash":  # fish offers other files where no recipe matches
        assert "rows.jsonl" not in complete(shell, "vlora train r", tmp_path)
    assert complete(shell, "vlora plan --mea", tmp_path) == ["--measure"]
    assert set(complete(shell, "vlora mine.toml --res", tmp_path)) == {"--resume", "--resume-or-start"}
    assert complete(shell, "vlora train mine.toml --set optim.learn", tmp_path) == ["optim.learning_rate="]
    assert complete(shell, "vlora init --recipe fork", tmp_path) == ["forkme"]
    assert complete(shell, "vlora completion fi", tmp_path) == ["fish"]


def test_zsh_takes_the_script(tmp_path: Path) -> None:
    """It is parsed, and offers itself for `vlora`."""
    program = shutil.which("zsh")
    if program is None:
        pytest.skip("zsh is not installed")
    script = tmp_path / "_vlora"
    script.write_text(WRITERS["zsh"](find_words(COMMANDS)))
    code = f"autoload -U compinit; compinit -u -D; source {script}; print $_comps[vlora]"
    done = subprocess.run([program, "-f", "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert (done.stdout.strip(), done.stderr) == ("_vlora", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the script, which has every command and every key."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out

    assert all(word in script for word in (*COMMANDS, *all_keys(), "resume-or-start", "forkme"))
    assert "lora-rank" not in script
