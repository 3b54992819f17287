"""Second stage of opening fused folders with transformers: their logits beside the trained ones. Needs no MLX."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from safetensors.numpy import load_file

from .cases import CASES
from .generate import encode_rows, load_model, open_processor, reference_folder
from .stages import make_parser

SAME = 1e-4
"""Largest difference of logits, in float32, beside the largest logit or 1."""


def compare(family: str, folder: Path, work: Path) -> float:
    """Compare a fused folder's logits with those that were trained.

    Returns:
        The largest difference, beside the largest logit if that is more than 1.
    """
    case, expected = CASES[family], load_file(folder / "logits.safetensors")
    worst = 0.0
    with reference_folder(folder / "fused", case) as path:
        rows, _ = encode_rows(family, work, open_processor(path, case))
        model = load_model(path, case)
        for number, row in enumerate(rows):
            with torch.no_grad():
                found = model(**row.inputs).logits[0].float().numpy()
            found = found * (1.0 if case.logit_scale is None else case.logit_scale)
            own = expected[str(number)]
            difference = float(np.abs(found[: len(own)] - own[: len(found)]).max())
            worst = max(worst, difference / max(1.0, float(np.abs(own).max())))
    return worst


def main() -> int:
    """Compare the named families, or all; 1 if one differs."""
    options = make_parser("fused_reference", __doc__, "what tests.golden.fused_prepare wrote").parse_args()
    torch.set_num_threads(1)
    failed = 0
    for family in options.families or CASES:
        for file in sorted((options.work / family / "fused").glob("*/logits.safetensors")):
            try:
                difference = compare(family, file.parent, options.work / family)
                verdict = f"{difference:.2g}"
                failed += difference > SAME
            except Exception as error:  # noqa: BLE001 - the next ones are compared all the same
                verdict, failed = f"{type(error).__name__}: {error}"[:300], failed + 1
            print(f"{family} {file.parent.name}: {verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
