"""Ten steps of every loss against TRL on pairs with images; `preference_reference.py` made the numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.arrays import load_arrays
from tests.golden import preference_side
from tests.golden.compare import CHANGE, LOSS, compare_changes, measure_change
from tests.golden.mlx_side import write_folder
from tests.golden.preference_cases import FAMILIES, LOSSES, PRECISIONS, RUNS, STEPS, THOROUGH

FOLDER = Path(__file__).parent / "preferences"
GOLDEN = json.loads((FOLDER / "trl.json").read_text(encoding="utf-8"))
ROUNDED = 2e-3
"""Largest difference of what TRL logs with four digits."""

QUICK = [(THOROUGH, "lora", "sigmoid"), (THOROUGH, "4 bit", "kto")]


@pytest.mark.parametrize(
    ("family", "precision", "run"),
    [pytest.param(*own, marks=[] if own in QUICK else [pytest.mark.slow], id=" ".join(own)) for own in RUNS],
)
def test_same_numbers_as_trl(family: str, precision: str, run: str, tmp_path: Path) -> None:
    """Losses and metrics of ten steps, and the adapters behind them; each side's reference has its adapters off.

    Each step's loss is within 1e-4. In the runs that only one family has, a loss above 1 is within that share of
    itself: SPPO's losses are up to 140, where the last digit of float32 is 1.5e-5.
    """
    result = preference_side.train(family, write_folder(family, tmp_path / "model"), precision, run)

    stored = dict(GOLDEN[family][precision][run])
    losses = stored.pop("losses")
    share = 0 if LOSSES[run].everywhere else LOSS
    assert result.losses == pytest.approx(losses, rel=share, abs=LOSS)
    for name, values in stored.items():
        assert result.metrics[name] == pytest.approx(values, rel=1e-3, abs=ROUNDED), name
    changes = {name: result.final[name] - result.initial[name] for name in result.final}
    expected = np.array(load_arrays(FOLDER / "trl.safetensors")[f"{family}.{precision}.{run}"])
    found = {
        name: measure_change(name, own, changes[name]) for name, own in zip(sorted(changes), expected, strict=True)
    }
    moved, errors = ({name: pair[place] for name, pair in found.items()} for place in (0, 1))
    shares = compare_changes(moved, errors, {name: value.size for name, value in changes.items()})
    assert min(moved.values()) > 0
    assert max(shares.values()) <= CHANGE, max(shares, key=shares.__getitem__)


def test_every_run_is_stored() -> None:
    """With all families and both precisions, but for some losses that one family has."""
    stored = {(family, own, run) for family in FAMILIES for own in PRECISIONS for run in GOLDEN[family][own]}
    assert stored == set(RUNS)
    assert load_arrays(FOLDER / "trl.safetensors").keys() == {".".join(own) for own in RUNS}
    assert {run for *_, run in RUNS} == LOSSES.keys()
    assert all(len(values) == STEPS for a, b, run in RUNS for values in GOLDEN[a][b][run].values())
