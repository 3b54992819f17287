"""The command."""

import argparse
import gc
import itertools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

KINDS = ("recipes", "rows", "messages", "images", "models", "adapters", "states", "streams")
"""Kinds of input, each with a file of its name here."""

COLUMNS = ("inputs", "refused", "accepted", "learned", "tracebacks", "crashes", "hangs", "wrong", "longest_s")
FAILED = 1
SHORT = 100
"""Inputs below which not all that they are made from is built."""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="what all inputs depend on (0)")
    parser.add_argument("--count", type=int, default=1750, help="inputs in all (1750)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"which kinds ({','.join(KINDS)})")
    parser.add_argument(
        "--only", type=int, default=None, metavar="NUMBER", help="one input of each kind, by its number"
    )
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="inputs that run side by side (cores)")
    parser.add_argument("--limit-s", type=float, default=60.0, help="seconds until an input counts as hung (60)")
    parser.add_argument("--memory-gb", type=float, default=8.0, help="memory that an input may take (8)")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="keep inputs that failed there")
    parser.add_argument("--verbose", action="store_true", help="a line for every input")
    return parser


def settle_environment(folder: Path) -> None:
    """Let nothing be asked of the network, and nothing be kept where users keep it. Before vlora is imported."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HOME=str(folder / "hub"),
        HF_DATASETS_CACHE=str(folder / "datasets"),
        XDG_CACHE_HOME=str(folder / "cache"),
        TOKENIZERS_PARALLELISM="false",
    )
    # Compiled once, and not for each run anew.
    os.environ.setdefault("VLORA_KERNELS", str(Path(tempfile.gettempdir()) / f"vlora-fuzz-kernels-{os.getuid()}"))


def main(arguments: list[str] | None = None) -> int:
    """Make inputs, run them, and print what has come of them; 1 if any did not end as it should."""
    parsed = make_parser().parse_args(arguments)
    # Not a `TemporaryDirectory`: inputs end as interpreters do, and would remove it.
    folder = Path(tempfile.mkdtemp(prefix="vlora-fuzz-"))
    try:
        settle_environment(folder)
        rows = _run(parsed, folder, parsed.kinds.split(","))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = sum(rows[-1][name] for name in ("tracebacks", "crashes", "hangs", "wrong"))
    print(json.dumps({"seed": parsed.seed, "failed": failed, "kinds": rows}))
    return FAILED if failed else 0


def _run(parsed: argparse.Namespace, folder: Path, kinds: list[str]) -> list[dict[str, Any]]:
    from importlib import import_module

    # All that a command imports, once.
    for name in (
        "vlora.cli.main",
        "vlora.run.fit",
        "vlora.report.inspect",
        "vlora.estimate.plan",
        "datasets",
        "PIL.Image",
    ):
        import_module(name)
    from .server import Limits, fork, run_jobs
    from .trials import tabulate

    modules = {kind: import_module(f".{kind}", __package__) for kind in kinds}
    shared = folder / "shared"
    shared.mkdir()
    limits = Limits(seconds=parsed.limit_s, memory_gb=parsed.memory_gb, at_once=parsed.at_once)

    def build() -> int:
        for module in modules.values():
            if hasattr(module, "build"):
                module.build(shared, is_short=parsed.count < SHORT)
        return 0

    # In a process of its own: this one must not compute.
    if os.waitpid(fork(build, folder, limits), 0)[1]:
        sys.stderr.write((folder / "stderr").read_text(encoding="utf-8"))
        msg = "what the inputs are made from could not be built"
        raise SystemExit(msg)
    gc.freeze()
    generators = {kind: module.generate for kind, module in modules.items()}
    jobs = _list_jobs(parsed, kinds)
    judged = []
    for one in run_jobs(jobs, generators, shared, parsed.keep or folder, limits, keep=parsed.keep is not None):
        judged.append(one)
        if one.verdict != "as expected" or parsed.verbose:
            print(f"{one.kind} {one.number} ({one.what}), to be {one.expected}: {one.verdict} {one.found}", flush=True)
    rows = tabulate(judged)
    for line in (("kind", *COLUMNS), *((row["kind"], *(row[name] for name in COLUMNS)) for row in rows)):
        print("".join(f"{value!s:>11}" for value in line))
    return rows


def _list_jobs(parsed: argparse.Namespace, kinds: list[str]) -> Any:
    from .server import Job

    numbers = [parsed.only] if parsed.only is not None else range(-(-parsed.count // len(kinds)))
    return (Job(kind=kind, number=number, seed=parsed.seed) for number, kind in itertools.product(numbers, kinds))


if __name__ == "__main__":
    sys.exit(main())
