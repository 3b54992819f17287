"""A worker process: compiles listed kernels beside other workers, and moves complete ones into the common folder.

On a CPU nearly all of the 1.5 s that MLX takes for a kernel are its headers. So MLX only writes the sources of many
kernels, and one g++ with MLX's options compiles them together: 91 kernels in 5 s. Each kernel's file is then a link to
the one library.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .kernel_names import kernel_file, parse_constant
from .rebuild import make_kernel

KERNEL_BEGINS = 'extern "C"  {'
ENTRY = re.compile(r"^void (\w+)\(int\* shape", re.MULTILINE)
"""Line before the kernels in sources for a CPU."""


def work(kind: str, root: Path, common: Path, claims: Path, lines: Sequence[str], n_together: int) -> None:
    """Compile those of the listed kernels that no other worker has taken.

    Args:
        kind: "cpu" or "cuda".
        root: The folder that the environment names to MLX for kernels of this process.
        common: The folder for finished kernels.
        claims: A folder with a file for each group of kernels that a worker has taken.
        lines: JSON: [name, file's id, [constant, ...]].
        n_together: Kernels of a group.
    """
    parent = os.getppid()
    take: Callable[[Sequence[Any], Path, Path], None] = compile_together if kind == "cpu" else compile_each
    for start in range(0, len(lines), n_together):
        try:
            os.close(os.open(claims / str(start), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        # The run that started this worker may have ended.
        if os.getppid() != parent:
            return
        take([json.loads(line) for line in lines[start : start + n_together]], root, common)


def compile_each(listed: Sequence[Any], root: Path, common: Path) -> None:
    """Let MLX compile kernels for a GPU, and move each into the common folder: its code last, which MLX looks for.

    Args:
        listed: (name, file's id, constants) of each.
        root: Where MLX puts them.
        common: The folder for finished kernels.
    """
    for name, _, constants in listed:
        try:
            make_kernel(name, [parse_constant(text) for text in constants])
        except (ValueError, RuntimeError):
            # Of another version of MLX: what the run needs, it compiles itself.
            continue
        file = kernel_file("cuda", name)
        for suffix in (".txt", ".cu", file.suffix):
            part = (root / file).with_suffix(suffix)
            if part.exists():
                (common / file.parent).mkdir(parents=True, exist_ok=True)
                part.replace(common / file.parent / part.name)


def compile_together(listed: Sequence[Any], root: Path, common: Path) -> None:
    """Let MLX write the sources of kernels for a CPU, compile them as one, and link the common folder's files to that.

    Args:
        listed: (name, file's id, constants) of each.
        root: MLX's temporary folder.
        common: The folder for finished kernels.
    """
    compiler = shutil.which("g++")
    sources, command = write_sources(listed, root)
    if compiler is None or not sources:
        return
    together, library = root / "together.cpp", root / "together.so"
    together.write_text("".join(_join(list(sources.values()))), encoding="utf-8")
    # MLX's own options; only the files are others.
    options = [word for word in command if not word.endswith((".cpp", ".so")) and word != "-o"]
    made = subprocess.run(  # noqa: S603 - the compiler that MLX runs
        [compiler, *options, str(together), "-o", str(library)], check=False, capture_output=True, cwd=root
    )
    if made.returncode:
        return
    common.mkdir(parents=True, exist_ok=True)
    # One file for all of them: a process that has loaded one has loaded them all.
    for name, file_id, _ in listed:
        if name in sources:
            link = root / "link.so"
            try:
                os.link(library, link)
            except OSError:
                # A file system without links.
                shutil.copyfile(library, link)
            link.replace(common / kernel_file("cpu", name, file_id))
    library.unlink()


def write_sources(listed: Sequence[Any], root: Path) -> tuple[dict[str, str], list[str]]:
    """Let MLX write the sources of kernels, with a compiler that always fails.

    Args:
        listed: (name, file's id, constants) of each.
        root: MLX's temporary folder.

    Returns:
        The sources by the kernels' names, and the words of the last command after "g++" with which MLX would have
        compiled one of them.
    """
    programs = root / "programs"
    programs.mkdir(exist_ok=True)
    words = root / "words"
    stand_in = programs / "g++"
    lines = [
        "#!/bin/sh",
        # With this command MLX checks whether there is a compiler.
        'case "$1" in --version) exit 0;; esac',
        f"printf '%s\\n' \"$@\" > {shlex.quote(str(words))}",
        "exit 1",
    ]
    stand_in.write_text("\n".join([*lines, ""]), encoding="utf-8")
    stand_in.chmod(0o700)
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{programs}{os.pathsep}{path}"
    try:
        for name, _, constants in listed:
            # A kernel that MLX "cannot compile", or a name of another version of it.
            with contextlib.suppress(RuntimeError, ValueError):
                make_kernel(name, [parse_constant(text) for text in constants])
    finally:
        os.environ["PATH"] = path
    found = {}
    for file in root.glob("mlx/*/cpu/*.cpp"):
        source = file.read_text(encoding="utf-8")
        if (entry := ENTRY.search(source)) is not None:
            found[entry[1]] = source
    command = words.read_text(encoding="utf-8").splitlines() if words.exists() else []
    return {name: found[name] for name, _, _ in listed if name in found}, command


def _join(sources: Sequence[str]) -> Iterator[str]:
    """Yield the sources, with MLX's headers before the first kernel only once."""
    yield sources[0]
    for source in sources[1:]:
        head, begins, body = source.partition(KERNEL_BEGINS)
        yield begins + body if sources[0].startswith(head) else source


def main() -> None:
    """Work until nothing is left: `python vlora/compilation/__main__.py KIND ROOT COMMON CLAIMS N_TOGETHER < LINES`."""
    kind, root, common, claims, n_together = sys.argv[1:]
    # Lower priority than the run, which reads its rows meanwhile.
    os.nice(5)
    work(kind, Path(root), Path(common), Path(claims), sys.stdin.read().splitlines(), int(n_together))
