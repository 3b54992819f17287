"""Measure the training step against mlx-vlm's trainer and transformers + PEFT, on random models of named shapes.

    python -m benchmarks.table --kind cpu
    python -m benchmarks.table --kind nvidia

Nothing is downloaded. The models are drawn once, into folders that every side opens with its own loader; every side
takes the same rows, adapts the same layers and starts at the same loss, in a process of its own. One JSON line for each
case as it is measured, then a table, and as the last line one JSON object. benchmarks/README.md says more.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import attrs

from .cases import TABLES, Case, Table, shrink
from .machine import describe_host
from .report import compare_sides, judge_goals, show_table, show_verdicts, sum_up
from .workers import MissingError, Worker, WorkerError

MODULES = {
    "vlora": "benchmarks.sides.ours",
    "mlx-vlm": "benchmarks.sides.mlx_vlm_trainer",
    "torch": "benchmarks.sides.torch_peft",
}
LIMIT_S = 240.0

Outcome = tuple[Case, dict[str, Any]]


@attrs.frozen(kw_only=True)
class Plan:
    """What is measured, and with what.

    Attributes:
        table: Its cases.
        folder: Where the models are drawn.
        matmul_flops: Rate of matrix products.
        limit_s: How long a process may take for an answer.
    """

    table: Table
    folder: Path
    matmul_flops: float
    limit_s: float

    def worker(self, case: Case) -> Worker:
        """Start the process of a case."""
        return Worker(MODULES[case.side], "open_side", self.limit_s)

    def model(self, case: Case) -> Path:
        """Say where the model of a case is."""
        return self.folder / f"{case.shape}-{case.bits or 'float'}"


@attrs.define(eq=False)
class Opened:
    """A case that is being measured.

    Attributes:
        case: The case.
        worker: Its process.
        started: What its clock said in the beginning.
        seconds: Of a step, for each round so far.
    """

    case: Case
    worker: Worker
    started: dict[str, Any] = attrs.field(factory=dict)
    seconds: list[float] = attrs.field(factory=list)

    def open(self, plan: Plan) -> None:
        """Open the model and warm up."""
        self.worker.make(self.case, plan.model(self.case))
        self.started = self.worker.call("start")

    def finish(self, plan: Plan) -> dict[str, Any]:
        """Sum up."""
        return sum_up(self.case, self.seconds, self.started, self.worker.call("finish"), plan.matmul_flops)


def measure_apart(plan: Plan) -> Iterator[Outcome]:
    """Measure the cases one after the other; the next one's process imports while one opens its model."""
    cases = plan.table.cases
    with ExitStack() as stack:
        following = stack.enter_context(plan.worker(cases[0]))
        for case, after in zip(cases, [*cases[1:], None], strict=True):
            with following as worker:
                opened = Opened(case, worker)
                following = following if after is None else stack.enter_context(plan.worker(after))
                try:
                    opened.open(plan)
                    if after is not None:
                        _wait(following)
                    opened.seconds = [worker.call("time", plan.table.steps) for _ in range(plan.table.rounds)]
                    outcome = opened.finish(plan)
                except WorkerError as error:
                    outcome = _describe(error)
            yield case, outcome


def measure_together(plan: Plan) -> Iterator[Outcome]:
    """Measure the cases in turns, a few steps each."""
    with ExitStack() as stack:
        sides = [Opened(case, stack.enter_context(plan.worker(case))) for case in plan.table.cases]
        outcomes: dict[str, dict[str, Any]] = {}
        for turn in range(plan.table.rounds + 1):
            for side in sides:
                if side.case.name in outcomes:
                    continue
                try:
                    if not turn:
                        side.open(plan)
                        continue
                    side.worker.call("rest")
                    side.seconds.append(side.worker.call("time", plan.table.steps))
                except WorkerError as error:
                    outcomes[side.case.name] = _describe(error)
        for side in sides:
            try:
                yield side.case, outcomes.get(side.case.name) or side.finish(plan)
            except WorkerError as error:
                yield side.case, _describe(error)


def _wait(worker: Worker) -> None:
    """Wait until a process has done with its imports, so that they disturb no clock; if it fails, it says so later."""
    try:
        worker.wait_until_ready()
    except WorkerError:
        return


def _describe(error: WorkerError) -> dict[str, Any]:
    return {"skipped" if isinstance(error, MissingError) else "failed": str(error)}


def at_least_one(text: str) -> int:
    """Read a positive number of the command line."""
    if (number := int(text)) < 1:
        msg = f"found {number}, expected at least 1"
        raise argparse.ArgumentTypeError(msg)
    return number


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=TABLES, required=True, help="the machine's kind, which decides the table")
    parser.add_argument("--cases", help="patterns of names, separated by commas; all if not given")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and end")
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help="times that each case is measured")
    parser.add_argument("--steps", type=at_least_one, metavar="N", help="steps of a round")
    parser.add_argument("--tiniest", action="store_true", help="every case with a toy model: whether all of it runs")
    parser.add_argument("--models", type=Path, help="keep the drawn models in this folder, and use those there")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="longest wait for a process")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the last line there too")
    return parser


def choose(options: argparse.Namespace) -> Table:
    """Choose the table and its cases.

    Raises:
        SystemExit: No case has such a name.
    """
    table = TABLES[options.kind]
    if options.tiniest:
        table = shrink(table)
    if options.cases:
        patterns = options.cases.split(",")
        cases = tuple(case for case in table.cases if any(fnmatch(case.name, pattern) for pattern in patterns))
        if not cases:
            names = ", ".join(case.name for case in table.cases)
            msg = f"--cases: {options.cases!r} matches none of {names}"
            raise SystemExit(msg)
        table = attrs.evolve(table, cases=cases)
    return attrs.evolve(table, rounds=options.rounds or table.rounds, steps=options.steps or table.steps)


def rounded(value: Any) -> Any:
    """Round the floating-point numbers of a tree to the digits that a measurement has."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def say(line: dict[str, Any]) -> None:
    """Print a line of JSON."""
    print(json.dumps(rounded(line), separators=(",", ":")), flush=True)


def measure(table: Table, folder: Path, limit_s: float) -> dict[str, Any]:
    """Measure a table, printing what is found as it is found."""
    began = time.perf_counter()
    machine = describe_host()
    with Worker("benchmarks.sides.preparation", "Preparation", limit_s) as worker:
        worker.make()
        machine["device"] = worker.call("describe_device")
        machine["matmul"] = worker.call("measure_matmul", table.matmul)
        say(machine)
        plan = Plan(table=table, folder=folder, matmul_flops=machine["matmul"]["flops"], limit_s=limit_s)
        for shape, bits, path in sorted({(case.shape, case.bits or 0, plan.model(case)) for case in table.cases}):
            say({"drawn": path.name, "seconds": worker.call("draw", shape, bits or None, path)})
    results = {}
    for case, result in (measure_together if table.together else measure_apart)(plan):
        results[case.name] = result
        say({"case": case.name, **result, "after_s": round(time.perf_counter() - began)})
    verdicts = judge_goals(table.goals, results, in_turns=table.together)
    comparisons = compare_sides(table.cases, results, table.same_loss)
    for found in comparisons:
        results[found["case"]]["losses_apart"] = found["losses_apart"]
    print("", *show_table(table.cases, results), "", *show_verdicts(verdicts, comparisons), "", sep="\n", flush=True)
    return {
        "machine": machine,
        "rounds": table.rounds,
        "steps": table.steps,
        "results": results,
        "goals": verdicts,
        "same_losses": all(found["same_loss"] for found in comparisons),
        "same_trainable": all(found["same_trainable"] for found in comparisons),
        "seconds": time.perf_counter() - began,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line names.

    Returns:
        0, or 1 if a case failed.
    """
    options = make_parser().parse_args(arguments)
    table = choose(options)
    if options.list:
        print(*(case.name for case in table.cases), sep="\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="vlora-benchmarks-") as temporary:
        summary = {"kind": options.kind, "tiniest": options.tiniest}
        summary |= measure(table, options.models or Path(temporary), options.limit)
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(json.dumps(rounded(summary), indent=1) + "\n", encoding="utf-8")
    say(summary)
    return int(any("failed" in result for result in summary["results"].values()))


if __name__ == "__main__":
    sys.exit(main())
