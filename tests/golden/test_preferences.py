"""Ten steps of DPO's losses against TRL on pairs with images; `preference_reference.py` made the numbers."""

import json
from pathlib import Path

import pytest

from tests.golden import preference_side
from tests.golden.mlx_side import write_folder
from tests.golden.preference_cases import FAMILIES, LOSSES, THOROUGH

GOLDEN = json.loads((Path(__file__).parent / "preferences" / "trl.json").read_text(encoding="utf-8"))
LOSS, ROUNDED = 1e-4, 2e-3
"""Largest difference of losses, and of margins, of which TRL logs four digits."""

RUNS = [
    pytest.param(family, loss, marks=[] if (family, loss) == (THOROUGH, "sigmoid") else [pytest.mark.slow])
    for family in FAMILIES
    for loss in (LOSSES if family == THOROUGH else list(LOSSES)[:1])
]


@pytest.mark.parametrize(("family", "loss"), RUNS)
def test_same_losses_as_trl(family: str, loss: str, tmp_path: Path) -> None:
    """Losses and margins of ten steps, the reference computed with adapters off on either side."""
    losses, margins = preference_side.train(family, write_folder(family, tmp_path / "model"), loss)

    stored = GOLDEN[family][loss]
    scale = max(1.0, *stored["losses"])
    assert losses == pytest.approx(stored["losses"], rel=0, abs=LOSS * scale)
    assert margins == pytest.approx([float(value) for value in stored["margins"]], rel=1e-3, abs=ROUNDED)


def test_every_run_is_stored() -> None:
    """Of all families the first loss, of one all of them."""
    assert {(family, loss) for family in FAMILIES for loss in GOLDEN[family]} == {
        (family, loss) for family in FAMILIES for loss in (LOSSES if family == THOROUGH else list(LOSSES)[:1])
    }
    assert all(len(run[key]) == 10 for family in FAMILIES for run in GOLDEN[family].values() for key in run)
