"""All checks of this machine, and a function that runs them one after another.

Nothing is downloaded. Files are written into a folder that the caller removes, except the cache that `datasets` makes
of a few rows. After a check has failed the others still run.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from ..errors import CheckError
from ..ops.cuda_kernels import on_cuda
from .attention import check_attention, check_few_queries, check_tiles
from .memory import check_limits
from .ops import (
    check_blas,
    check_kernels,
    check_loss,
    check_norm,
    check_products,
    check_quantized,
    check_rotations,
    check_swiglu,
)
from .runs import check_run, check_workers
from .train_step import check_batches, check_steps


@attrs.frozen(kw_only=True)
class Outcome:
    """What a check found.

    Attributes:
        name: What was checked.
        is_ok: Whether the check passed.
        found: Figures, or the fault.
        seconds: How long it took.
        is_left_out: Whether nothing was checked; `found` says why.
    """

    name: str
    is_ok: bool
    found: str
    seconds: float
    is_left_out: bool = False


def run_checks(folder: Path, checks: Mapping[str, Callable[[Path], str]]) -> Iterator[Outcome]:
    """Run all checks one after another, also after a failure.

    Args:
        folder: An empty folder for their files.
        checks: As `find_checks` gives them: name to a function of a folder of its own, which says what it found.

    Yields:
        Each check's outcome, once it is known.
    """
    for number, (name, check) in enumerate(checks.items()):
        own = folder / str(number)
        own.mkdir()
        began = time.perf_counter()
        try:
            found, is_ok = check(own), True
        except CheckError as error:
            found, is_ok = str(error), False
        except Exception as error:  # noqa: BLE001 - whatever MLX, or a missing package, comes up with is what we are after
            found, is_ok = f"{type(error).__name__}: {error}", False
        yield Outcome(name=name, is_ok=is_ok, found=found, seconds=time.perf_counter() - began)


def report(machine: Mapping[str, str], outcomes: Sequence[Outcome], n_checks: int) -> str:
    """Write the outcomes as JSON, for attachment to an issue.

    Args:
        machine: As `describe_machine` gives it.
        outcomes: Of the checks so far.
        n_checks: Number of all checks; the file is written after each of them, in case one ends the process.
    """
    found = {
        "machine": dict(machine),
        "checks": [attrs.asdict(outcome) for outcome in outcomes],
        "n_checks": n_checks,
        "is_proven": len(outcomes) == n_checks and is_proven(outcomes),
    }
    return json.dumps(found, indent=2) + "\n"


def is_report(text: str) -> bool:
    """Whether a text is what `report` has written."""
    try:
        return bool(json.loads(text).keys() == {"machine", "checks", "n_checks", "is_proven"})
    except (ValueError, AttributeError):
        return False


def is_proven(outcomes: Sequence[Outcome]) -> bool:
    """Whether there are outcomes and all checks passed."""
    return bool(outcomes) and all(outcome.is_ok for outcome in outcomes)


def find_checks() -> dict[str, Callable[[Path], str]]:
    """Return the checks for MLX's default device, by name."""
    checks: dict[str, Callable[[Path], str]] = {
        "matrix products": check_products,
        "attention": check_attention,
        "attention of few queries": check_few_queries,
        "RMS norm": check_norm,
        "SwiGLU": check_swiglu,
        "rotations": check_rotations,
        "the loss": check_loss,
        "4-bit weights": check_quantized,
    }
    if on_cuda():
        checks["attention of whole and padded tiles"] = check_tiles
        checks["vlora's CUDA kernels"] = check_kernels
    return {
        **checks,
        "compiled and eager steps": check_steps,
        "rows of a batch": check_batches,
        "memory limits": check_limits,
        "worker threads": check_workers,
        "a run in a process of its own": check_run,
        "the BLAS of the CPU": check_blas,
    }
