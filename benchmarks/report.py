"""What was measured, in numbers and in lines. Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .cases import RANK, Case, Goal
from .flops import count_operations
from .shapes import SHAPES

Result = Mapping[str, Any]

COLUMNS = (
    ("tokens/s", "tokens_per_s", ",.0f"),
    ("superv./s", "supervised_per_s", ",.0f"),
    ("step ms", "step_ms", ",.1f"),
    ("min", "step_ms_min", ",.1f"),
    ("max", "step_ms_max", ",.1f"),
    ("peak GB", "peak_gb", ",.2f"),
    ("beyond", "beyond_weights_gb", ",.2f"),
    ("MFU", "mfu", ".3f"),
    ("first s", "first_step_s", ",.1f"),
    ("loss", "first_loss", ".5f"),
)


def sum_up(
    case: Case,
    seconds: Sequence[float],
    started: Mapping[str, Any],
    finished: Mapping[str, Any],
    matmul_flops: float,
) -> dict[str, Any]:
    """Sum up a case.

    Args:
        case: What was measured.
        seconds: Of a step, one for each round.
        started: What `Clock.start` said.
        finished: What `Clock.finish` said.
        matmul_flops: Operations per second of matrix products on the same device.

    Returns:
        Numbers by name: milliseconds of a step (median, quartiles and extremes of the rounds), tokens per second that
        predict something, memory in 10^9 bytes, MFU.
    """
    step = statistics.median(seconds)
    quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [step] * 3
    operations = count_operations(SHAPES[case.shape], case.work, rank=RANK, with_tower=not case.cached)
    peak = finished["peak_bytes"]
    return {
        "step_ms": 1e3 * step,
        "step_ms_min": 1e3 * min(seconds),
        "step_ms_quartiles": [1e3 * quartiles[0], 1e3 * quartiles[2]],
        "step_ms_max": 1e3 * max(seconds),
        "rounds_ms": [1e3 * value for value in seconds],
        "tokens_per_s": case.work.rows * case.work.n_read / step,
        "supervised_per_s": case.work.rows * case.work.answer / step,
        "peak_gb": None if peak is None else peak / 1e9,
        "weights_gb": started["weights_bytes"] / 1e9,
        "beyond_weights_gb": None if peak is None else (peak - started["weights_bytes"]) / 1e9,
        "tflop": operations.total / 1e12,
        "mfu": operations.total / step / matmul_flops,
        "first_step_s": started["first_step_s"],
        "first_loss": started["first_loss"],
        "last_loss": finished["last_loss"],
        "n_trainable": started["n_trainable"],
    }


def judge_goals(goals: Sequence[Goal], results: Mapping[str, Result], *, in_turns: bool) -> list[dict[str, Any]]:
    """Hold the results against the goals whose cases were measured.

    Args:
        goals: What is asked.
        results: By case.
        in_turns: Whether the sides took turns. A ratio of speeds is then the median of the rounds' own ratios: what
            else the machine did in a round disturbed both.

    Returns:
        For each goal: what was found, whether that is enough, and the extremes of the rounds' ratios.
    """
    return [verdict for goal in goals if (verdict := _judge(goal, results, in_turns=in_turns)) is not None]


def _judge(goal: Goal, results: Mapping[str, Result], *, in_turns: bool) -> dict[str, Any] | None:
    names = [name for name in (goal.case, goal.other) if name is not None]
    values = [value for name in names if (value := results.get(name, {}).get(goal.number)) is not None]
    if len(values) < len(names):
        return None
    value = values[0] if goal.other is None else values[0] / values[1]
    found: dict[str, Any] = {"case": goal.case, "number": goal.number}
    if goal.other is not None:
        found["over"] = goal.other
        if in_turns and goal.number == "tokens_per_s":
            rounds = (results[name]["rounds_ms"] for name in (goal.other, goal.case))
            ratios = [theirs / ours for theirs, ours in zip(*rounds, strict=True)]
            value = statistics.median(ratios)
            found |= {"least": min(ratios), "most": max(ratios)}
    is_met = (goal.at_least is None or value >= goal.at_least) and (goal.at_most is None or value <= goal.at_most)
    wanted = {"at_least": goal.at_least} if goal.at_least is not None else {"at_most": goal.at_most}
    return {**found, "value": value, **wanted, "met": is_met}


def compare_sides(cases: Sequence[Case], results: Mapping[str, Result], same_loss: float) -> list[dict[str, Any]]:
    """Check that sides which start from the same model and rows start at the same loss and train as much.

    Every case is held against the first of its kind that is vlora's.
    """
    found = []
    for case in cases:
        own = results.get(case.name, {})
        reference = next(
            (
                other
                for other in cases
                if (other.shape, other.bits, other.work) == (case.shape, case.bits, case.work)
                and other.side == "vlora"
                and "first_loss" in results.get(other.name, {})
            ),
            None,
        )
        if reference is None or reference is case or "first_loss" not in own:
            continue
        theirs = results[reference.name]
        apart = abs(own["first_loss"] / theirs["first_loss"] - 1)
        found.append(
            {
                "case": case.name,
                "over": reference.name,
                "losses_apart": apart,
                "same_loss": math.isfinite(apart) and apart <= same_loss,
                "same_trainable": own["n_trainable"] == theirs["n_trainable"],
            }
        )
    return found


def show_table(cases: Sequence[Case], results: Mapping[str, Result]) -> list[str]:
    """Lay out the results, a line for each case."""
    width = max(len(case.name) for case in cases)
    lines = ["".join([f"{'':<{width}}", *(f"{title:>11}" for title, _, _ in COLUMNS)])]
    for case in cases:
        result = results.get(case.name, {"failed": "not measured"})
        if "step_ms" not in result:
            reason = result.get("failed") or result.get("skipped")
            lines.append(f"{case.name:<{width}}  {reason}")
            continue
        cells = (f"{'-' if result[key] is None else format(result[key], kind):>11}" for _, key, kind in COLUMNS)
        lines.append("".join([f"{case.name:<{width}}", *cells]))
    return lines


def show_verdicts(verdicts: Sequence[Result], comparisons: Sequence[Result]) -> list[str]:
    """Lay out what was reached, and where sides did not do the same."""
    lines = []
    for verdict in verdicts:
        wanted = f">= {verdict['at_least']}" if "at_least" in verdict else f"<= {verdict['at_most']}"
        over = f" over {verdict['over']}" if "over" in verdict else ""
        met = "reached" if verdict["met"] else "MISSED"
        spread = f", rounds {verdict['least']:.2f} to {verdict['most']:.2f}" if "least" in verdict else ""
        lines.append(f"{verdict['case']}: {verdict['number']}{over} {verdict['value']:.3f}{spread} ({wanted}: {met})")
    lines += [
        f"{found['case']}: its first loss is {found['losses_apart']:.1e} from that of {found['over']}"
        for found in comparisons
        if not found["same_loss"]
    ]
    lines += [
        f"{found['case']}: trains another number of parameters than {found['over']}"
        for found in comparisons
        if not found["same_trainable"]
    ]
    return lines
