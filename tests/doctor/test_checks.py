"""The doctor: its checks hold here, a fault is found, and whatever one of them finds the others run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from vlora.cli.main import main
from vlora.doctor import checks as doctor
from vlora.doctor.checks import Outcome, describe_machine, find_checks, is_proven, report, run_checks
from vlora.errors import CheckError, RecipeError
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


def outcome_of(name: str, folder: Path) -> Outcome:
    """Run one check."""
    (outcome,) = run_checks(folder, {name: find_checks()[name]})
    return outcome


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


def scaled(function: Any) -> Any:
    """Let a function give a twentieth too much."""
    return lambda *args, **kwargs: function(*args, **kwargs) * 1.05


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A function that is wrong fails its own check, with the place, and no other."""
    monkeypatch.setattr(functional, "swiglu", scaled(functional.swiglu))
    checks = {name: find_checks()[name] for name in ("RMS norm", "SwiGLU", "rotations")}
    outcomes = list(run_checks(tmp_path, checks))

    assert [outcome.is_ok for outcome in outcomes] == [True, False, True]
    assert "the result in float32: off by 5.0e-02" in outcomes[1].found
    assert not is_proven(outcomes)


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A gradient is checked apart from the result."""

    def rotate(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
        rotated = mx.stop_gradient(functional._rotated(x, cosines, sines))
        return rotated + (x - mx.stop_gradient(x))

    monkeypatch.setattr(functional, "rotate", rotate)

    assert "the gradient of input 1 in float32" in outcome_of("rotations", tmp_path).found


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (mx.fast, "scaled_dot_product_attention", "attention"),
        (functional, "rms_norm", "RMS norm"),
        (doctor, "frozen_linear", "4-bit weights"),
        (doctor, "loss_fn", "the loss"),
    ],
)
def test_each_check_looks_at_what_it_names(
    module: Any, function: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fault of a few hundredths in what a check is about is not taken for rounding."""
    own = getattr(module, function)
    is_pair = name == "the loss"
    wrong = (lambda *args: (own(*args)[0] * 1.05, 0)) if is_pair else scaled(own)
    monkeypatch.setattr(module, function, wrong)

    assert not outcome_of(name, tmp_path).is_ok


def test_kernels_are_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A CUDA machine's check, run here on what takes the kernels' place, holds; and finds a fault."""
    assert "float32" in doctor.check_kernels(tmp_path)

    monkeypatch.setattr(functional, "rms_norm", scaled(functional.rms_norm))

    with pytest.raises(CheckError, match="norm in float32"):
        doctor.check_kernels(tmp_path)


def test_another_device_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run that changes the default device under the program's feet is told of."""
    devices = iter([mx.Device(mx.cpu), mx.Device(mx.gpu)] * 9)
    monkeypatch.setattr(doctor, "fit", lambda _: iter([None, None]))
    monkeypatch.setattr(mx, "default_device", lambda: next(devices))

    assert "the run began on" in outcome_of("worker threads", tmp_path).found


def test_a_run_that_fails_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last lines of a run that ends with an error stand in the outcome."""
    monkeypatch.setattr(doctor, "TRAINED", {"train.val_batches": 1, "data.valid_path": "nowhere.jsonl"})
    outcome = outcome_of("a run in a process of its own", tmp_path)

    assert not outcome.is_ok
    assert "ended with status" in outcome.found
    assert "nowhere.jsonl" in outcome.found


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


def test_the_machine_is_described() -> None:
    """What a report needs is there: system, versions, device; and of the environment only what MLX and vlora read."""
    machine = describe_machine()

    assert {"machine", "system", "python", "mlx", "mlx-vlm", "transformers", "numpy", "device"} <= set(machine)
    assert machine["device"].startswith("cpu")
    assert not [name for name in machine if name in os.environ and not name.startswith(("MLX_", "VLORA_"))]


def test_it_writes_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints a line per check and a verdict, writes the file, and ends with 0, or with 1 for a fault."""
    checks: dict[str, Any] = {"SwiGLU": doctor.check_swiglu, "the loss": doctor.check_loss}
    monkeypatch.setattr(doctor, "find_checks", lambda: checks)
    file = tmp_path / "doctor.json"

    assert main(["doctor", "--write", str(file)]) == 0

    printed = capsys.readouterr().out
    found = json.loads(file.read_text())

    assert "vlora works here" in printed
    assert "mlx-vlm: " in printed
    assert found["is_proven"] is True
    assert [check["name"] for check in found["checks"]] == list(checks)

    monkeypatch.setattr(functional, "swiglu", scaled(functional.swiglu))
    os.link(file, tmp_path / "before")

    assert main(["doctor", "--write", str(file)]) == 1
    # Written beside and renamed: whoever reads meanwhile has the old file or the new one.
    assert json.loads((tmp_path / "before").read_text())["is_proven"] is True

    printed = capsys.readouterr().out

    assert "1 of 2 checks failed" in printed
    assert "FAIL SwiGLU" in printed
    assert "ok   the loss" in printed
    assert json.loads(file.read_text())["is_proven"] is False


def test_it_takes_no_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The command has one option of its own, and names it."""
    with pytest.raises(SystemExit):
        main(["doctor", "recipes/quickstart.toml"])

    assert "--write" in capsys.readouterr().err


def test_a_report_is_json() -> None:
    """What is attached to an issue can be read by a program."""
    outcome = Outcome(name="a", is_ok=False, found="1 is not 2", seconds=0.5)

    assert json.loads(report({"device": "cpu"}, [outcome], 2)) == {
        "machine": {"device": "cpu"},
        "checks": [{"name": "a", "is_ok": False, "found": "1 is not 2", "seconds": 0.5}],
        "n_checks": 2,
        "is_proven": False,
    }


def test_what_is_not_complete_is_no_proof() -> None:
    """A file that was written before the last check, which ended the process, does not say that all is well."""
    outcome = Outcome(name="a", is_ok=True, found="3 of 3", seconds=0.5)

    assert json.loads(report({}, [outcome], 2))["is_proven"] is False
    assert json.loads(report({}, [outcome, outcome], 2))["is_proven"] is True


def test_rows_are_drawn_without_scikit_learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that lacks it is checked all the same."""

    def refuse(*_: Any) -> Any:
        msg = "data.path: builtin:digits needs scikit-learn"
        raise RecipeError(msg)

    monkeypatch.setattr(doctor, "load_digit_rows", refuse)
    outcome = outcome_of("rows of a batch", tmp_path)

    assert outcome.is_ok, outcome.found


def test_a_missing_option_value_is_a_mistake() -> None:
    """In a process of its own, as users type it."""
    ended = subprocess.run(
        [sys.executable, "-m", "vlora", "doctor", "--write"], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert "--write" in ended.stderr
