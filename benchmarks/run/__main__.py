"""The command."""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ..cases import LEARNING_RATE, RANK
from ..ending import end_in_order
from ..machine import describe_host
from ..table import rounded, say
from . import __doc__ as description
from .devices import compare_devices, count_devices, find_distance, name_program, show_devices, spread_programs
from .figures import Course, DeviceError, MeasureError, Trace, check_device, compare, show_table, sum_up
from .processes import ProgramError, make_environment, run
from .programs import PROGRAMS, Job, Place, Program, SkippedError, Start, find_program
from .rows import KINDS, Kind, RowSet, choose_sets, write_recipe, write_rows

EPOCHS = 2
LIMIT_S = 900.0
ON_DEVICE = "on the device"
OWN_ROWS = "rows"
"""The benchmark's own sets share a model, and so their programs' kernel caches."""


def at_least(minimum: int, text: str) -> int:
    """Read a whole number of the command line."""
    number = int(text)
    if number < minimum:
        msg = f"found {number}, expected at least {minimum}"
        raise argparse.ArgumentTypeError(msg)
    return number


def count(text: str) -> int:
    """Read a number that may be 0."""
    return at_least(0, text)


def positive(text: str) -> int:
    """Read a number from 1 on."""
    return at_least(1, text)


def numbers(text: str) -> list[int]:
    """Read numbers from 1 on, separated by commas."""
    return [positive(part) for part in text.split(",")]


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=description.splitlines()[0])
    parser.add_argument("recipes", nargs="*", type=Path, help="recipes to compare, instead of the benchmark's own rows")
    parser.add_argument("--kind", choices=KINDS, help="the machine's kind: what is trained, and on which device")
    parser.add_argument(
        "--sets",
        default="mixed,one,all,long",
        help="row sets, separated by commas: of mixed, one, all, long (these four), even and pairs",
    )
    parser.add_argument("--programs", default="vlora,mlx-vlm,trl", help="programs, separated by commas (all three)")
    parser.add_argument(
        "--devices",
        type=numbers,
        default=[1],
        metavar="N,...",
        help="numbers of devices that vlora runs on (1), each with a batch of its own",
    )
    parser.add_argument("--full", action="store_true", help="full fine-tuning with recomputed layers; vlora alone")
    parser.add_argument("--rows", type=positive, metavar="N", help="rows of every set")
    parser.add_argument("--batch", type=positive, metavar="N", help="rows of a step")
    parser.add_argument("--seed", type=count, default=0, metavar="S", help="fixes sizes, images and answers (0)")
    parser.add_argument("--peer-steps", type=positive, metavar="N", help="steps of mlx-vlm and TRL (40; on a CPU 10)")
    parser.add_argument("--cold", type=count, default=1, metavar="N", help="runs without a kernel cache (1)")
    parser.add_argument("--repeat", type=positive, default=1, metavar="N", help="runs with a kernel cache (1)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="longest time of a process")
    parser.add_argument("--folder", type=Path, metavar="KEEP", help="keep model, rows and runs in this folder")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the last line there too")
    return parser


@attrs.define(eq=False)
class Measuring:
    """Measures jobs, one run after the other, and prints every run as it ends.

    Attributes:
        place: Where runs are made.
        programs: Those to measure, by their names.
        cold: Cold runs of each.
        repeat: Warm runs of each.
        failed: Whether something failed that is not merely missing here.
        filled: Kernel caches that runs of this command have filled: (of which jobs, program).
    """

    place: Place
    programs: Mapping[str, Program]
    cold: int
    repeat: int
    failed: bool = attrs.field(default=False, init=False)
    filled: set[tuple[str, str]] = attrs.field(factory=set, init=False)

    def take(self, job: Job) -> dict[str, Any]:
        """Measure a job.

        Returns:
            Rows, tokens and batch; the figures by program and start; ratios.

        Raises:
            DeviceError: A program computed on another device than it should.
        """
        runs: dict[str, list[dict[str, Any]]] = {}
        ends: dict[str, dict[str, str]] = {}
        for start, number, name in self._plan(job):
            found = self._take(job, name, start, ends)
            if found is not None:
                runs.setdefault(f"{name} {start}", []).append(found)
                say({"job": job.name, "program": name, "start": start, "run": number, **found})
        figures = {name: sum_up(found) for name, found in runs.items()} | ends
        if "vlora" in self.programs and "vlora" not in ends:
            figures[ON_DEVICE] = self._time_steps(job)
        order = [f"{name} {start}" for name in self.programs for start in ("cold", "new rows", "warm")]
        # Where they are read: between vlora's runs and its peers'.
        order.insert(order.index("vlora warm") + 1 if "vlora" in self.programs else 0, ON_DEVICE)
        figures = {name: figures[name] for name in [*order, *figures] if name in figures}
        result = {"course": None if job.course is None else attrs.asdict(job.course), "figures": figures}
        ratios = compare(figures) | compare_devices(figures)
        print("", *show_table(describe(job), figures, ratios), sep="\n", flush=True)
        devices = {str(count): self._look_at_devices(job, count, runs) for count in self._count_devices(runs)}
        return result | {"ratios": ratios} | ({"devices": devices} if devices else {})

    def _count_devices(self, runs: Iterable[str]) -> list[int]:
        """Give the numbers of several devices that vlora has run on."""
        found = (count_devices(name.removesuffix(" warm")) for name in runs if name.endswith(" warm"))
        return [number for number in found if number is not None and number > 1]

    def _look_at_devices(self, job: Job, count: int, runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """Say what each of several devices did, and how far the first losses are from those of one device."""
        found = {"shares": runs[f"{name_program(count)} warm"][-1].get("shares", {})}
        try:
            ours, theirs = (self.place.find_losses(job, *numbers) for numbers in ((count, 1), (1, count)))
        except (MeasureError, ProgramError) as error:
            self.failed = True
            found["failed"] = str(error)
        else:
            found |= {"losses": ours, "losses_of_one": theirs, "loss_distance": find_distance(ours, theirs)}
        print(*show_devices(count, found["shares"], found.get("loss_distance")), "", sep="\n", flush=True)
        say({"job": job.name, "devices": count, **found})
        return found

    def _plan(self, job: Job) -> list[tuple[Start, int, str]]:
        """Say what runs when: programs take turns, so that what changes on the machine changes for all."""
        new = [name for name in self.programs if (job.caches, name) not in self.filled]
        self.filled |= {(job.caches, name) for name in new}
        plan: list[tuple[Start, int, str]] = [("cold", number, name) for number in range(self.cold) for name in new]
        if self.cold:
            # Kernels that these rows are the first to need are compiled here, and not in a run that counts as warm.
            known = (name for name in self.programs if name not in new and not self.programs[name].is_peer)
            plan += [("new rows", 0, name) for name in known]
        return plan + [("warm", number, name) for number in range(self.repeat) for name in self.programs]

    def _take(self, job: Job, name: str, start: Start, ends: dict[str, dict[str, str]]) -> dict[str, Any] | None:
        """Make one run; None if it failed, or the program did before."""
        if name in ends:
            return None
        try:
            return self.place.measure(job, self.programs[name], start)
        except DeviceError:
            raise
        except SkippedError as error:
            ends[name] = {"skipped": str(error)}
        except (MeasureError, ProgramError) as error:
            self.failed = True
            ends[name] = {"failed": str(error)}
        say({"job": job.name, "program": name, "start": start, **ends[name]})
        return None

    def _time_steps(self, job: Job) -> dict[str, Any]:
        """Time vlora's own steps alone, with the kernels that its last run has left."""
        caches = self.place.caches(job, PROGRAMS["vlora"])
        arguments = ("benchmarks.sides.on_device", str(job.recipe))
        try:
            found = self.place.ask(f"{job.name}-steps", *arguments, caches=caches)
        except ProgramError as error:
            self.failed = True
            found = {"failed": str(error)}
        else:
            check_device(f"the steps of {job.name}", Trace(marks=(), device=found["device"]), self.place.device)
        say({"job": job.name, "program": ON_DEVICE, **found})
        return found


def describe(job: Job) -> str:
    """Say what a job is, in a line above its table."""
    if job.course is None:
        return f"{job.name}: packed rows, of which nothing says before the run how many make a step"
    course = job.course
    return (
        f"{job.name}: {course.rows} rows, {course.tokens:,} tokens; an epoch has {course.steps} steps, "
        f"of {course.batch} rows and {course.tokens / course.steps:,.0f} tokens each"
    )


def make_jobs(options: argparse.Namespace, kind: Kind, place: Place) -> Iterator[Job]:
    """Draw the model and the rows, set by set as they are asked for.

    Raises:
        ProgramError: They cannot be drawn.
        ValueError: The command line asks for what there is not.
    """
    sets = choose_sets(kind, options.sets.split(","), options.rows, options.batch)
    model = (place.folder / f"{kind.shape}-{kind.dtype}-{kind.least_pixels}").resolve()
    if not model.is_dir():
        folder = place.make_run_folder("model")
        arguments = [kind.shape, kind.dtype, str(kind.least_pixels), str(model)]
        command = [sys.executable, "-m", "benchmarks.sides.publishing", *arguments]
        run(command, folder, make_environment(None, folder), place.limit_s)
    for rows in sets:
        yield make_job(rows, options, kind, place, model)


def make_job(rows: RowSet, options: argparse.Namespace, kind: Kind, place: Place, model: Path) -> Job:
    """Write a set of rows and the recipe that trains on it.

    Raises:
        ProgramError: The rows' tokens cannot be counted.
        ValueError: The set cannot be drawn.
    """
    path = write_rows(rows, options.seed, (place.folder / "rows" / f"{rows.name}-{rows.rows}-{options.seed}").resolve())
    recipe = write_recipe(
        place.folder / f"{rows.name}.toml",
        model=str(model),
        rows=str(path),
        max_seq_length=rows.max_seq_length,
        rank=RANK,
        alpha=2.0 * RANK,
        learning_rate=LEARNING_RATE,
        batch=rows.batch,
        epochs=EPOCHS,
        objective=rows.objective,
        full=options.full,
    )
    found = place.ask(f"{rows.name}-tokens", "benchmarks.sides.counting", "rows", str(model), str(path))
    return Job(
        name=rows.name,
        recipe=recipe,
        caches=OWN_ROWS,
        course=Course(rows=found["rows"], tokens=found["tokens"], batch=rows.batch),
        model=model,
        rows=path,
        peer_steps=options.peer_steps or kind.peer_steps,
        max_seq_length=rows.max_seq_length,
        objective=rows.objective,
    )


def open_recipes(recipes: Sequence[Path], place: Place) -> Iterator[Job]:
    """Make the jobs of recipes.

    Raises:
        ProgramError: A recipe, or what it names, cannot be read.
    """
    for recipe in recipes:
        name = f"{recipe.stem}-{hashlib.sha256(str(recipe).encode()).hexdigest()[:4]}"
        found = place.ask(f"{name}-tokens", "benchmarks.sides.counting", "recipe", str(recipe))
        course = None if found["batch"] is None else Course(**found)
        yield Job(name=name, recipe=recipe, caches=name, course=course)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line names.

    Returns:
        0; 1 if a program failed, or computed on another device than the one asked for.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    names = ["vlora"] if options.recipes or options.full else options.programs.split(",")
    if unknown := [name for name in names if name not in PROGRAMS]:
        parser.error(f"--programs: found {unknown[0]!r}, expected some of {', '.join(PROGRAMS)}")
    if options.full and (options.recipes or "vlora" not in options.programs.split(",")):
        parser.error("--full: trains the benchmark's own rows with vlora; leave recipes and other --programs out")
    programs = {name: find_program(name) for name in spread_programs(names, options.devices)}
    if not options.recipes and options.kind is None:
        parser.error("give --kind cpu or --kind nvidia, or recipes to compare")
    kind = None if options.kind is None else KINDS[options.kind]
    with tempfile.TemporaryDirectory(prefix="vlora-run-", ignore_cleanup_errors=True) as temporary:
        place = Place(
            folder=(options.folder or Path(temporary)).resolve(),
            caches_folder=Path(temporary),
            device=None if kind is None else kind.device,
            limit_s=options.limit,
            own_caches=not options.cold,
        )
        place.folder.mkdir(parents=True, exist_ok=True)
        measuring = Measuring(place=place, programs=programs, cold=options.cold, repeat=options.repeat)
        if options.recipes or kind is None:
            jobs = open_recipes(options.recipes, place)
        else:
            jobs = make_jobs(options, kind, place)
        return measure(jobs, measuring, options)


def measure(jobs: Iterator[Job], measuring: Measuring, options: argparse.Namespace) -> int:
    """Measure jobs, and print and write what was found; as much as there is if something goes wrong on the way.

    Returns:
        As `main`.
    """
    asked = {
        name: getattr(options, name) for name in ("kind", "seed", "cold", "repeat", "peer_steps", "devices", "full")
    }
    summary: dict[str, Any] = {"machine": describe_host(), **asked, "results": {}}
    say(summary["machine"])
    try:
        for job in jobs:
            summary["results"][job.name] = measuring.take(job)
            write(summary, options.write)
    except (DeviceError, ProgramError, ValueError) as error:
        print(f"benchmarks.run: {error}", file=sys.stderr)
        summary["failed"] = str(error)
        write(summary, options.write)
    say(summary)
    return int(measuring.failed or "failed" in summary)


def write(summary: dict[str, Any], path: Path | None) -> None:
    """Write what was found so far, if a file was named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rounded(summary), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
