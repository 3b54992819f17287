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
{function}
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
        function = "_vlora" if words[0] == "vlora" else "_vlora_module"
        code = BASH.format(script=script, words=quoted, place=len(words) - 1, function=function)
    else:
        code = f"source {script}; complete -C '{line}'"
    done = subprocess.run([program, "-c", code], cwd=folder, capture_output=True, text=True, check=True, timeout=600)
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


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_the_module_is_completed_as_the_command(shell: str, tmp_path: Path) -> None:
    """Behind `python -m vlora` and `python3 -m vlora`; what else python is given is left alone."""
    (tmp_path / "mine.toml").touch()

    assert complete(shell, "python -m vlora pl", tmp_path) == ["plan"]
    assert complete(shell, "python3 -m vlora plan --mea", tmp_path) == ["--measure"]
    assert complete(shell, "python -m vlora train mine.toml --set optim.learn", tmp_path) == ["optim.learning_rate="]
    assert "plan" not in complete(shell, "python -m other pl", tmp_path)
    assert "plan" not in complete(shell, "python pl", tmp_path)


def test_bash_keeps_what_completed_python_before(tmp_path: Path) -> None:
    """A completion of python's own goes on for everything else, and reading the script twice changes nothing."""
    program = shutil.which("bash")
    if program is None:
        pytest.skip("bash is not installed")
    script = tmp_path / "vlora.bash"
    script.write_text(WRITERS["bash"](find_words(COMMANDS)))
    code = f"""
_own() {{ COMPREPLY=(own); }}
complete -F _own python
source {script}; source {script}
COMP_WORDS=(python fi) COMP_CWORD=1
_vlora_module
echo "${{COMPREPLY[@]}}"
COMP_WORDS=(python -m vlora ins) COMP_CWORD=3
_vlora_module
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([program, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600)

    assert (done.stdout.split(), done.stderr) == (["own", "inspect"], "")


def test_zsh_takes_the_script(tmp_path: Path) -> None:
    """It is parsed, and offers itself for `vlora`."""
    program = shutil.which("zsh")
    if program is None:
        pytest.skip("zsh is not installed")
    script = tmp_path / "_vlora"
    script.write_text(WRITERS["zsh"](find_words(COMMANDS)))
    code = f"autoload -U compinit; compinit -u -D; source {script}; print $_comps[vlora]"
    done = subprocess.run([program, "-f", "-c", code], capture_output=True, text=True, check=True, timeout=600)

    assert (done.stdout.strip(), done.stderr) == ("_vlora", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the script, which has every command and every key."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out

    assert all(word in script for word in (*COMMANDS, *all_keys(), "resume-or-start", "forkme"))
    assert "lora-rank" not in script
