"""What the tests of the doctor's checks share."""

from pathlib import Path
from typing import Any

from vlora.doctor.checks import Outcome, find_checks, run_checks


def outcome_of(name: str, folder: Path) -> Outcome:
    """Run one check."""
    folder.mkdir(exist_ok=True)
    (outcome,) = run_checks(folder, {name: find_checks()[name]})
    return outcome


def scaled(function: Any) -> Any:
    """Let a function give a twentieth too much."""
    return lambda *args, **kwargs: function(*args, **kwargs) * 1.05
