"""How much of the package has to be read: the lines of the reading list, and the modules on the way to the loss.

    python -m benchmarks.reading                       # this checkout
    python -m benchmarks.reading --root OTHER          # another checkout, also one before the package had folders
    python -m benchmarks.reading --set KEY=VALUE ...   # with other keys, to leave out abilities that the other lacks

The first number counts the files that `vlora/README.md` lists. The second runs the quickstart under `sys.settrace`,
from the call of `fit` to the first call of the loss in a training step. It counts the modules of the package of which a
function runs meanwhile, their lines, and the lines that run; apart those that take the events of a run, to show them.
What is computed ahead of it (validation, answers) is shortened, not left out. `benchmarks.frames` counts the functions
on that way.
"""

import argparse
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
LISTED = re.compile(r"^\| `([\w/]+\.py)` \|", re.MULTILINE)
"""A row of the reading list: a file."""

BEFORE = (
    *("recipe.py", "types.py", "samples.py", "masks.py", "batches.py", "reading.py", "losses.py", "steps.py"),
    *("optimizers.py", "schedules.py", "loop.py", "session.py", "driver.py"),
)
"""The same parts before the package had folders and a list."""

CONSUMERS = ("cli", "report", "trackers")
"""Folders of what takes events: it runs between `fit` and the loss, and the loss does not depend on it."""

RECIPE = "recipes/quickstart.toml"
SHORTENED = ("train.val_batches=1", "eval.answer_rows=2")


def read_list(root: Path) -> dict[str, int]:
    """Give the files of the reading list of a checkout with the lines that they have."""
    readme = root / "vlora" / "README.md"
    names = LISTED.findall(readme.read_text(encoding="utf-8")) if readme.is_file() else BEFORE
    return {name: count_lines(root / "vlora" / name) for name in names}


def count_lines(file: Path) -> int:
    """Count a file's lines."""
    return len(file.read_text(encoding="utf-8").splitlines())


def measure_way(root: Path, more: Sequence[str] = ()) -> dict[str, int]:
    """Run the quickstart of a checkout up to the loss.

    Args:
        root: The checkout.
        more: Settings of the recipe besides `SHORTENED`, each KEY=VALUE; later ones win.

    Returns:
        File to the number of its lines that ran.

    Raises:
        RuntimeError: The run ended before the loss was called.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        settings = [f"output.path={folder}/run/model", *SHORTENED, *more]
        typed = [RECIPE, *(word for setting in settings for word in ("--set", setting))]
        command = [sys.executable, str(Path(__file__).resolve()), "--trace", str(found), str(root), *typed]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if not found.is_file():
            why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            msg = f"{root}: the run ended before the loss was called: {why}"
            raise RuntimeError(msg)
        measured: dict[str, int] = json.loads(found.read_text(encoding="utf-8"))
        return measured


class Tracer:
    """Notes which lines of a package run, from the call of `fit` to the loss of a training step.

    Attributes:
        package: The package's folder.
        found: Where the result is written.
    """

    def __init__(self, package: Path, found: Path) -> None:
        """Begin with nothing noted."""
        self.package, self.found = f"{package}{os.sep}", found
        self.lines: dict[str, set[int]] = {}
        self.is_on = False

    def __call__(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        """Look at a function that is called; follow its lines if it is one of the package's."""
        code = frame.f_code
        # Bodies of modules and of classes run when they are imported.
        if not code.co_flags & inspect.CO_OPTIMIZED or not code.co_filename.startswith(self.package):
            return None
        if not code.co_filename.endswith(".py"):
            # A page's template, which is no module.
            return None
        self.is_on = self.is_on or code.co_name == "fit"
        if not self.is_on:
            return None
        if code.co_name == "loss_fn" and self.is_in_a_step(frame):
            modules = {file: len(numbers) for file, numbers in sorted(self.lines.items())}
            self.found.write_text(json.dumps(modules), encoding="utf-8")
            os._exit(0)
        noted = self.lines.setdefault(code.co_filename.removeprefix(self.package), set())

        def note(inner: FrameType, _event: str, _argument: Any) -> Any:
            noted.add(inner.f_lineno)
            return note

        return note

    def is_in_a_step(self, frame: FrameType | None) -> bool:
        """Whether a function was called by the training loop, and not by a validation."""
        while frame is not None:
            if frame.f_code.co_qualname.startswith("TrainLoop."):
                return True
            frame = frame.f_back
        return False


def trace(found: Path, root: Path, typed: list[str]) -> None:
    """Run `python -m vlora` with these arguments, traced."""
    sys.path[0] = str(root)
    sys.argv = ["vlora", *typed]
    tracer = Tracer(root / "vlora", found)
    threading.settrace(tracer)
    sys.settrace(tracer)
    runpy.run_module("vlora", run_name="__main__", alter_sys=True)


def main() -> int:
    """Print both numbers, and last one JSON object."""
    if sys.argv[1:2] == ["--trace"]:
        trace(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return 1
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the quickstart's")
    given = parser.parse_args()
    root = given.root.resolve()
    listed, way = read_list(root), measure_way(root, given.set)
    sizes = {name: count_lines(root / "vlora" / name) for name in way}
    for name, lines in listed.items():
        print(f"{lines:6,}  {name}")
    print(f"{sum(listed.values()):6,}  lines of the reading list\n")
    for name, ran in way.items():
        print(f"{sizes[name]:6,}  {ran:5,} ran  {name}")
    print(f"{sum(sizes.values()):6,}  lines of {len(sizes)} modules run between `fit` and the loss; ", end="")
    print(f"{sum(way.values()):,} of them run")
    shown = sum(lines for name, lines in sizes.items() if name.startswith(CONSUMERS))
    print(f"{shown:6,}  of these lines are of modules that take events ({', '.join(CONSUMERS)})")
    totals = {"reading_list": sum(listed.values()), "modules": len(sizes), "module_lines": sum(sizes.values())}
    print(json.dumps({**totals, "event_lines": shown, "lines_run": sum(way.values())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
