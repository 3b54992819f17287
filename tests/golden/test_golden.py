"""Ten steps of every family against transformers + PEFT; tests/golden/generate.py made the numbers."""

import dataclasses

import numpy as np
import pytest
from _pytest.mark.structures import ParameterSet

from tests.golden import compare
from tests.golden.cases import CASES, RUNS, fingerprint
from tests.usual import USUAL

# Everything is compared in the slow run. The usual one has all runs of two families, and of those that it tries the run
# with the most in it: clipping, accumulation over unequal microbatches, and an adapter on every linear layer.
THOROUGH = ("qwen2_vl", "llava")
TIES = {("gemma4_moe", "linears"): 8}
"""Steps before one in which two experts are as good as each other to within float32's rounding: which one a router
chooses then depends on the processor's products (AVX2 or AVX-512), and nothing can be compared any more."""
PAIRS = [(family, run) for family, case in CASES.items() for run in RUNS if run not in case.skipped]


def mark(family: str, run: str) -> ParameterSet:
    marks = []
    if family not in USUAL or (family not in THOROUGH and run != "linears"):
        marks.append(pytest.mark.slow)
    if reason := CASES[family].differs.get(run):
        marks.append(pytest.mark.xfail(reason=reason))
    return pytest.param(family, run, marks=marks)


@pytest.mark.parametrize(("family", "run"), [mark(*pair) for pair in PAIRS])
def test_same_numbers_as_transformers_and_peft(family: str, run: str) -> None:
    """Losses, gradient norms and trained arrays of ten steps are the reference's."""
    result = compare.run_again(family, run)
    difference = compare.measure(family, run, result)
    if not difference.is_small and (n_steps := TIES.get((family, run))):
        stored = compare.golden(family)["runs"][run]
        assert result.losses[:n_steps] == pytest.approx(stored["losses"][:n_steps], rel=0, abs=compare.LOSS)
        assert result.norms[:n_steps] == pytest.approx(stored["grad_norms"][:n_steps], rel=compare.NORM)
        return
    assert difference.loss <= compare.LOSS
    assert difference.norm <= compare.NORM
    assert difference.change <= compare.CHANGE, difference.worst


def test_every_family_has_its_files() -> None:
    """Golden files belong to a case, and hold the runs that the case does not skip."""
    assert {path.stem for path in compare.GOLDEN.glob("*.json")} == set(CASES)
    for family in CASES:
        assert [(family, run) for run in compare.golden(family)["runs"]] == [
            pair for pair in PAIRS if pair[0] == family
        ]


def test_differences_are_seen() -> None:
    """A loss, a norm or an array that is slightly off is measured as such, stored whole or condensed."""
    for run in ("qv", "linears"):
        result = compare.run_again("llava", run)
        assert compare.measure("llava", run, result).is_small
        later = dataclasses.replace(result, losses=[result.losses[0] + 2e-4, *result.losses[1:]])
        assert compare.measure("llava", run, later).loss == pytest.approx(2e-4, rel=0.1)
        steeper = dataclasses.replace(result, norms=[*result.norms[1:], result.norms[0]])
        assert not compare.measure("llava", run, steeper).is_small
        name = next(iter(result.final))
        moved = result.final[name] - result.initial[name]
        # An array that moved as far, but by one part in fifty somewhere else.
        other = moved + 0.02 * np.linalg.norm(moved) / np.sqrt(moved.size) * np.sign(np.flip(moved))
        off = dataclasses.replace(result, final=result.final | {name: result.initial[name] + other})
        difference = compare.measure("llava", run, off)
        assert difference.worst == name
        assert difference.change == pytest.approx(0.02, rel=0.6)


def test_other_arrays_are_refused() -> None:
    """A run that trains fewer arrays than the reference is not compared at all."""
    result = compare.run_again("llava", "qv")
    fewer = dataclasses.replace(result, final=dict(list(result.final.items())[1:]))
    with pytest.raises(AssertionError, match="only one side trains"):
        compare.measure("llava", "qv", fewer)


def test_fingerprint_measures_a_norm() -> None:
    """The products with random directions estimate the norm of what two changes differ by."""
    generator = np.random.default_rng(0)
    ratios = []
    for name in map(str, range(200)):
        change, error = generator.standard_normal((2, 12, 5))
        first, second = fingerprint(name, change), fingerprint(name, change + error)
        assert first[0] == pytest.approx(np.linalg.norm(change))
        ratios.append(np.mean(np.square(first[1:] - second[1:])) / np.sum(np.square(error)))
    assert np.mean(ratios) == pytest.approx(1, abs=0.15)


def test_checkpointing_changes_no_number() -> None:
    """Recomputed activations give the same losses and adapters as kept ones."""
    kept = compare.run_again("qwen2_vl", "linears")
    recomputed = compare.run_again("qwen2_vl", "linears", grad_checkpoint=True)
    assert recomputed.losses == pytest.approx(kept.losses, rel=1e-6)
    for name, value in kept.final.items():
        np.testing.assert_allclose(recomputed.final[name], value, atol=1e-5)


def test_table_has_every_family() -> None:
    """The table in the package lists every family that is compared, and calls no run different."""
    text = compare.TABLE.read_text()
    rows = [
        line.split(" | ") for line in text.splitlines() if line.startswith("| ") and not line.startswith("| family")
    ]
    assert [cells[0].strip("| ") for cells in rows] == list(CASES)
    for cells in rows:
        differs = CASES[cells[0].strip("| ")].differs
        assert [run for run, cell in zip(RUNS, cells[1:], strict=True) if "**" in cell] == list(differs)
    assert f"of {len(PAIRS)} runs" in text


def test_table_marks_what_differs() -> None:
    """A difference beyond the bounds is bold; a run that is not compared is a dash."""
    fine = compare.Difference(loss=1e-6, norm=2e-6, change=3e-6, worst="a")
    lines = compare.table_lines({("llava", "qv"): fine, ("llava", "full"): dataclasses.replace(fine, loss=2e-4)})
    assert lines[2] == "| llava | 1e-06 / 2e-06 / 3e-06 | - | - | **2e-04 / 2e-06 / 3e-06** |"
