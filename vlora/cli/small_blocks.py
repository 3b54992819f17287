"""How many freed small blocks of memory a thread keeps for itself: what glibc reads once, when a process begins.

A training step is a graph of some ten thousand arrays, made and freed by one thread. glibc keeps seven freed blocks of
each size for a thread, and searches and joins free memory for all others. On an H200 whose host was slow, one run
with seven had 42,200 tokens/s, and one with as many as there may be 49,500 (benchmarks/README.md).
"""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
"""The variable that glibc reads; each setting in it is NAME=VALUE, separated by colons."""

BEGUN = "VLORA_BEGUN"
"""The variable that has the number of a process that has begun anew. It does so once, even if the other variable is
taken away again, as glibc does it for an interpreter with rights of its own."""

KEEP_MOST = "glibc.malloc.tcache_count=65535"

QUICK = frozenset({"init", "inspect", "export", "import", "push", "compare", "schema", "completion"})
"""Commands that take no steps."""

OWN_NAME = "vlora"
"""What `python -m` is given, and what the script is called."""

HELP = ("-h", "--help", "--help-all")


def choose_tunables(typed: Sequence[str], environment: Mapping[str, str], libc: str) -> str | None:
    """Choose what a command's process is to begin with; None where it stays as it is.

    Args:
        typed: The command's arguments.
        environment: Of this process. What a person has set, the variable or another allocator, stays.
        libc: The C library's name and version, as `os.confstr` gives it.
    """
    named = [argument for argument in typed if not argument.startswith("-")]
    is_quick = not named or named[0] in QUICK or any(help_asked in typed for help_asked in HELP)
    is_set = TUNABLES in environment or "malloc" in environment.get("LD_PRELOAD", "")
    return None if is_quick or is_set or not libc.startswith("glibc") else KEEP_MOST


def is_all(started: Sequence[str]) -> bool:
    """Whether an interpreter was started for vlora alone: not for a debugger, a profiler or a notebook that runs it.

    Args:
        started: What the interpreter was started with, as `sys.orig_argv`.
    """
    rest = iter(started[1:])
    for argument in rest:
        if argument in {"-W", "-X"}:
            next(rest, None)
        elif argument == "-m":
            return next(rest, None) == OWN_NAME
        elif argument.startswith("-c"):
            return False
        elif not argument.startswith("-"):
            return Path(argument).name == OWN_NAME
    return False


def restart_with_more() -> None:
    """Begin this process anew, with the variable set, if its command takes steps and the variable is not set yet."""
    tunables = choose_tunables(sys.argv[1:], os.environ, _name_libc())
    if tunables is None or not sys.executable or not is_all(sys.orig_argv) or os.environ.get(BEGUN) == str(os.getpid()):
        return
    # Where no process may be begun, this one does as well.
    with contextlib.suppress(OSError):
        environment = {**os.environ, TUNABLES: tunables, BEGUN: str(os.getpid())}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - what was typed


def _name_libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""
