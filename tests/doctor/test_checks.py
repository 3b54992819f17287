"""All checks: they hold here, a fault is found, and the others run whatever one of them finds."""

import json
from pathlib import Path

import pytest

from tests.checking import outcome_of, scaled
from vlora.doctor.checks import Outcome, find_checks, is_proven, report, run_checks
from vlora.errors import CheckError
from vlora.ops import cuda_kernels, functional

QUICK = (
    "matrix products",
    "attention",
    "attention of few queries",
    "RMS norm",
    "SwiGLU",
    "rotations",
    "the loss",
    "4-bit weights",
    "compiled and eager steps",
    "rows of a batch",
    "memory limits",
    "worker threads",
    "the BLAS of the CPU",
)


SLOW = ("a run in a process of its own",)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_it_holds_here(name: str, tmp_path: Path) -> None:
    """What vlora computes on this machine is right, and is said with figures."""
    outcome = outcome_of(name, tmp_path)

    assert outcome.is_ok, outcome.found
    assert outcome.name == name
    assert any(character.isdigit() for character in outcome.found)


def test_nothing_is_left_out() -> None:
    """The tests above run every check that there is on a CPU; a CUDA machine has one more."""
    assert set(find_checks()) == {*QUICK, *SLOW} | ({"vlora's CUDA kernels"} if cuda_kernels.on_cuda() else set())


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A function that is wrong fails its own check, with the place, and no other."""
    monkeypatch.setattr(functional, "swiglu", scaled(functional.swiglu))
    checks = {name: find_checks()[name] for name in ("RMS norm", "SwiGLU", "rotations")}
    outcomes = list(run_checks(tmp_path, checks))

    assert [outcome.is_ok for outcome in outcomes] == [True, False, True]
    assert "the result in float32: off by 5.0e-02" in outcomes[1].found
    assert not is_proven(outcomes)


def test_it_goes_on_after_any_error(tmp_path: Path) -> None:
    """What a check raises is its outcome, and the next one runs, in a folder of its own."""
    folders = []

    def fail(_: Path) -> str:
        msg = "1 is not 2"
        raise CheckError(msg)

    def crash(_: Path) -> str:
        msg = "[METAL] Command buffer execution failed"
        raise RuntimeError(msg)

    def hold(folder: Path) -> str:
        folders.append(folder)
        assert folder.is_dir()
        return "3 of 3"

    outcomes = list(run_checks(tmp_path, {"a": fail, "b": crash, "c": hold, "d": hold}))

    assert [outcome.is_ok for outcome in outcomes] == [False, False, True, True]
    assert outcomes[0].found == "1 is not 2"
    assert outcomes[1].found == "RuntimeError: [METAL] Command buffer execution failed"
    assert len(set(folders)) == 2


def test_nothing_is_not_proven() -> None:
    """No outcome is no proof."""
    assert not is_proven([])


def test_a_report_is_json() -> None:
    """What is attached to an issue can be read by a program."""
    outcome = Outcome(name="a", is_ok=False, found="1 is not 2", seconds=0.5)

    assert json.loads(report({"device": "cpu"}, [outcome], 2)) == {
        "machine": {"device": "cpu"},
        "checks": [{"name": "a", "is_ok": False, "found": "1 is not 2", "seconds": 0.5, "is_left_out": False}],
        "n_checks": 2,
        "is_proven": False,
    }


def test_what_is_not_complete_is_no_proof() -> None:
    """A file that was written before the last check, which ended the process, does not say that all is well."""
    outcome = Outcome(name="a", is_ok=True, found="3 of 3", seconds=0.5)

    assert json.loads(report({}, [outcome], 2))["is_proven"] is False
    assert json.loads(report({}, [outcome, outcome], 2))["is_proven"] is True
