"""`python -m vlora plan`: predicts the memory that a recipe needs, and the longest rows that fit."""

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..recipe.schema import Recipe
from ..system.nouns import with_noun
from .arguments import Parser, make_recipe_parser, positive
from .importing import importing
from .screen import Screen
from .status import DONE, USER_ERROR
from .units import format_bytes, format_count

if TYPE_CHECKING:
    from ..estimate.plan import Plan

EXAMPLES = (
    "plan my.toml --memory-gb 24 # does it fit into 24 GB?",
    "plan my.toml --set train.grad_checkpoint=true",
    "plan my.toml --devices 2 # on one of two devices",
    "plan my.toml --measure # run it on random weights, too",
)


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = "Say what memory a recipe needs, part by part, and how long its rows may be; no weights are loaded."
    parser = make_recipe_parser("plan", about, EXAMPLES)
    parser.add_argument(
        "--memory-gb", type=positive(float), default=None, help="how much there is, if not what is here"
    )
    parser.add_argument(
        "--devices", type=positive(int), default=1, metavar="N", help="plan one of N devices of the run"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        default=False,
        help="run it on random weights too, and show the peaks that MLX counts",
    )
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    if parsed.measure and parsed.devices > 1:
        msg = f"--measure: found together with --devices {parsed.devices}, and it runs on one device; leave one out"
        raise RecipeError(msg)
    return functools.partial(
        show_plan, parsed.recipe, parsed.memory_gb, measures=parsed.measure, n_devices=parsed.devices
    )


def show_plan(
    recipe: Recipe, memory_gb: float | None, console: Screen, *, measures: bool = False, n_devices: int = 1
) -> int:
    """Print the memory that a recipe will need.

    Args:
        recipe: What is to be trained.
        memory_gb: Available memory in gigabytes; None for that of this machine.
        console: Where it is shown.
        measures: Whether to run what was planned as well, and print the peaks.
        n_devices: Devices of the run, one of which is planned.

    Returns:
        0, or 2 if it does not fit.
    """
    with importing(recipe, needs_rows=False):
        from ..estimate.plan import LONGEST, make_plan
    plan = make_plan(recipe, memory_gb, n_devices=n_devices)
    console.tell(plan, peak=plan.peak, fits=plan.peak <= plan.memory)
    if n_devices > 1:
        divided = ", which divide the frozen weights" if recipe.train.shard != "none" else ""
        console.print(f"one of {n_devices} devices{divided}")
    elif recipe.train.shard != "none":
        console.print("counted for one device, whose weights are whole; --devices says of how many it is one")
    share = plan.n_trainable / plan.n_params
    counts = f"{format_count(plan.n_trainable)} of {format_count(plan.n_params)}"
    console.print(f"{plan.model_type}: {counts} parameters trained ({share:.2%})")
    rows = _name_rows(plan.batch_size, "row", plan.n_tokens)
    console.print(
        f"{rows}, {with_noun(plan.n_supervised, 'place', commas=False)} supervised ({plan.rows})",
        markup=False,
        soft_wrap=True,
    )
    for part, nbytes in plan.parts.items():
        console.print(f"  {part:<16}{nbytes / 1e9:>9.3f} GB")
    fits = plan.peak <= plan.memory
    verdict = "fits into" if fits else "does not fit into"
    with console.result():
        for line in describe_phases(plan):
            console.print(line, soft_wrap=True)
        console.print(f"  {'peak':<16}{plan.peak / 1e9:>9.3f} GB{_say_what_decides(plan)}", style="bold")
        console.print(f"{verdict} {format_bytes(plan.memory)}", style="" if fits else "bold red")
    if plan.longest is not None:
        least = "at least " if plan.longest == LONGEST else ""
        console.print(
            f"longest rows of text that fit, {plan.batch_size} at a time: {least}{with_noun(plan.longest, 'token')}"
        )
    if measures:
        show_measured(recipe, plan, console)
    return DONE if fits else USER_ERROR


def describe_phases(plan: "Plan") -> Iterator[str]:
    """Say what a step, a validation and answers take, where there is more than the step."""
    if not plan.phases:
        return
    yield _write_phase("a training step", plan.step_peak)
    for phase in plan.phases:
        if phase.unplanned:
            yield f"  {phase.name:<16}not planned: {phase.unplanned}"
            continue
        rows = f"{_name_rows(phase.n_rows, 'row', phase.n_tokens)} ({phase.rows})"
        if phase.n_new_tokens:
            asked = _name_rows(phase.n_rows, "question", phase.n_tokens)
            rows = f"{asked} ({phase.rows}), {with_noun(phase.n_new_tokens, 'new one', commas=False)}"
            rows += f" each; {phase.kept / 1e9:.3f} GB of keys and values" if phase.kept else " each; nothing is kept"
        yield f"{_write_phase(phase.name, phase.nbytes)}  {rows}"


def _name_rows(n_rows: int, noun: str, n_tokens: int) -> str:
    return f"{with_noun(n_rows, noun, commas=False)} of {with_noun(n_tokens, 'token', commas=False)}"


def _write_phase(name: str, nbytes: int) -> str:
    return f"  {name:<16}{nbytes / 1e9:>9.3f} GB"


def _say_what_decides(plan: "Plan") -> str:
    return f", in the {plan.fullest}" if plan.phases else ""


def show_measured(recipe: Recipe, plan: "Plan", console: Screen) -> None:
    """Run what was planned on random weights, and show each peak beside the plan's."""
    from ..estimate.measure import measure_phase, measure_step

    found = {"a training step": (plan.step_peak, measure_step(recipe, plan))}
    found |= {phase.name: (phase.nbytes, measure_phase(recipe, plan, phase)) for phase in plan.phases if phase.nbytes}
    console.tell("Measured", peak=max(measured for _, measured in found.values()), phases=found)
    console.print("measured on random weights:")
    for name, (planned, measured) in found.items():
        apart = planned / measured - 1
        console.print(
            f"{_write_phase(name, measured)} (the plan is {apart:+.1%} from it)", style="bold", soft_wrap=True
        )
