"""Second stage of the exchange with PEFT: what transformers and PEFT make of vlora's folders. Needs no MLX.

It opens the folders that `tests.golden.peft_prepare` wrote with `PeftModel.from_pretrained`, compares logits, and
writes adapters of PEFT's own, with their logits, for vlora to read.
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.numpy import load_file, save_file

from .cases import CASES, Array, Case
from .generate import TorchRow, encode_rows, load_model, open_processor, reference_folder
from .made_cases import MADE
from .made_reference import building, read_rows
from .peft_cases import EXCHANGES, FAMILIES, MOVED
from .stages import make_parser


def logits(model: Any, rows: list[Any], case: Case) -> list[Array]:
    """Compute the logits of rows, each alone."""
    found = []
    for row in rows:
        with torch.no_grad():
            values = model(**row.inputs).logits[0]
        scaled = values if case.logit_scale is None else values * case.logit_scale
        found.append(scaled.float().numpy())
    return found


def difference(one: list[Array], other: list[Array]) -> float:
    """Give the largest difference of two lists of logits."""
    return max(float(np.abs(a[: len(b)] - b[: len(a)]).max()) for a, b in zip(one, other, strict=True))


def open_adapter(path: Path, case: Case, folder: Path) -> tuple[Any, list[str]]:
    """Open an adapter as users do, and list what PEFT missed or did not expect."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(load_model(path, case), str(folder))
    problems = [str(one.message)[:300] for one in said if "adapter keys" in str(one.message)]
    result = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    lacking = [name for name in result.missing_keys if "lora_" in name or "modules_to_save" in name]
    return model.eval(), problems + [f"missing {lacking[:2]}"] * bool(lacking) + [
        f"unexpected {result.unexpected_keys[:2]}"
    ] * bool(result.unexpected_keys)


def write_own(path: Path, case: Case, folder: Path, rows: list[Any], base: list[Array], source: Path) -> float:
    """Train an adapter of PEFT's own, in its own words, save it, and write its logits.

    Returns:
        By how much it moves the logits.
    """
    config = LoraConfig.from_pretrained(str(source))
    config.inference_mode = False
    config.rank_pattern, config.alpha_pattern = {}, {}
    config.use_rslora = True
    torch.manual_seed(0)
    model = get_peft_model(load_model(path, case), config)
    spread = 0.02
    while True:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * spread)
        found = logits(model.eval(), rows, case)
        if difference(found, base) >= MOVED:
            break
        spread *= 2
    model.save_pretrained(str(folder))
    save_file(
        {str(number): np.ascontiguousarray(value) for number, value in enumerate(found)}, folder / "logits.safetensors"
    )
    return difference(found, base)


@contextmanager
def open_family(family: str, work: Path) -> Iterator[tuple[Path, Case, list[TorchRow]]]:
    """Give a family's checkpoint as transformers opens it, what sets the family apart, and its rows."""
    if family in MADE:
        path, case = work / "reference", Case()
        with building(MADE[family]):
            yield path, case, read_rows(family, work, load_model(path, case))
        return
    case = CASES[family]
    with reference_folder(work / "model", case) as path:
        yield path, case, encode_rows(family, work, open_processor(path, case))[0]


def compare(family: str, work: Path) -> None:
    """Compare all adapters of a family, and write what was found."""
    report: dict[str, Any] = {}
    with open_family(family, work) as (path, case, rows):
        base = logits(load_model(path, case), rows, case)
        for name in EXCHANGES:
            folder = work / "exchange" / name
            if not (folder / "peft").exists() or not (folder / "logits.safetensors").exists():
                continue
            expected = load_file(folder / "logits.safetensors")
            own = [expected[str(number)] for number in range(len(rows))]
            try:
                model, problems = open_adapter(path, case, folder / "peft")
                found = logits(model, rows, case)
                report[name] = {"difference": difference(found, own), "moved": difference(found, base)}
                report[name]["problems"] = problems
                del model
                report[name]["made"] = write_own(path, case, folder / "theirs", rows, base, folder / "peft")
            except Exception as error:  # noqa: BLE001 - the table says what fails
                report.setdefault(name, {})["failed"] = f"{type(error).__name__}: {error}"[:400]
            print(f"{family} {name}: {report[name]}", flush=True)
    (work / "exchange" / "reference.json").write_text(json.dumps(report))


def main() -> None:
    """Compare the named families, or all."""
    options = make_parser("peft_reference", __doc__, "what tests.golden.peft_prepare wrote").parse_args()
    torch.set_num_threads(1)
    for family in options.families or FAMILIES:
        compare(family, options.work / family)


if __name__ == "__main__":
    main()
