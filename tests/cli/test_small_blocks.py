"""A command that takes steps begins with a process that keeps many small blocks, and nothing else changes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlora.cli.main import COMMANDS
from vlora.cli.small_blocks import KEEP_MOST, QUICK, TUNABLES, choose_tunables, is_all

GLIBC = "glibc 2.39"


@pytest.mark.parametrize("typed", [["a.toml"], ["train", "a.toml"], ["--json", "eval", "runs/one"], ["quickstart"]])
def test_commands_with_steps_keep_more(typed: list[str]) -> None:
    """On glibc; musl and a Mac's C library do not read the variable."""
    assert choose_tunables(typed, {}, GLIBC) == KEEP_MOST
    assert choose_tunables(typed, {}, "") is None


@pytest.mark.parametrize(
    "typed", [[], ["--version"], ["train", "--help"], *([command, "file"] for command in sorted(QUICK))]
)
def test_other_commands_begin_once(typed: list[str]) -> None:
    """They would only begin later."""
    assert choose_tunables(typed, {}, GLIBC) is None
    assert set(COMMANDS) >= QUICK


@pytest.mark.parametrize("environment", [{TUNABLES: ""}, {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}])
def test_what_a_person_has_chosen_stays(environment: dict[str, str]) -> None:
    """The variable itself, or another allocator."""
    assert choose_tunables(["recipe.toml"], environment, GLIBC) is None


@pytest.mark.parametrize(
    ("started", "is_own"),
    [
        ("python -m vlora a.toml", True),
        ("python3 -X dev -W ignore -u -m vlora a.toml", True),
        ("python /home/me/env/bin/vlora a.toml", True),
        ("python -m cProfile -m vlora a.toml", False),
        ("python -m debugpy --listen 5678 -m vlora a.toml", False),
        ("python /tmp/launcher.py -m vlora a.toml", False),
        ("python -u -c code", False),
        ("python", False),
    ],
)
def test_what_runs_vlora_within_itself_goes_on(started: str, is_own: bool) -> None:
    """A debugger, a profiler, a notebook or a test is not begun anew."""
    assert is_all(started.split()) is is_own


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the variable is glibc's")
def test_a_command_begins_anew_with_all_that_was_typed(tmp_path: Path) -> None:
    """Same process, same arguments of the interpreter and of the command, same outcome."""
    notes = tmp_path / "notes.txt"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"with open({str(notes)!r}, 'a') as file:\n"
        f"    print(os.getpid(), os.environ.get({TUNABLES!r}), sys.orig_argv[1:], file=file)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {name: value for name, value in os.environ.items() if name not in (TUNABLES, "LD_PRELOAD")}
    typed = ["-W", "ignore", "-m", "vlora", "no such recipe.toml", "--set", "train.iters=3"]
    ended = subprocess.run(
        [sys.executable, *typed],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert "no such recipe.toml" in ended.stderr
    first, second = (line.split(" ", 2) for line in notes.read_text().splitlines())
    assert (first[0], first[2]) == (second[0], second[2]) == (second[0], str(typed))
    assert (first[1], second[1]) == ("None", KEEP_MOST)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the variable is glibc's")
def test_a_command_begins_anew_once(tmp_path: Path) -> None:
    """Whoever takes the variable away again."""
    notes = tmp_path / "notes.txt"
    lines = [
        "import os",
        f"os.environ.pop({TUNABLES!r}, None)",
        f"with open({str(notes)!r}, 'a') as file:",
        "    print('begun', file=file)",
    ]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    environment = {name: value for name, value in os.environ.items() if name not in (TUNABLES, "LD_PRELOAD")}
    ended = subprocess.run(
        [sys.executable, "-m", "vlora", "none.toml"],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert notes.read_text().count("begun") == 2
