"""Exports the adapters that tests.golden.peft_prepare wrote with `vlora export --to vllm` and `--to gguf`.

python -m tests.golden.prepare --work /tmp/golden FAMILY...  # or those of made_side.py
python -m tests.golden.peft_prepare --work /tmp/golden FAMILY...
python -m tests.golden.vllm_export --work /tmp/golden FAMILY...
"""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import json
import shutil
from pathlib import Path

from vlora.errors import VloraError
from vlora.export.programs import export

from .made_cases import MADE
from .made_side import building
from .peft_cases import EXCHANGES, FAMILIES
from .stages import make_parser


def name_architecture(family: str, work: Path) -> None:
    """Add to a tiny model's configuration how its class is called, as published ones have it."""
    file, reference = work / "model" / "config.json", work / "reference" / "config.json"
    config = json.loads(file.read_text())
    if "architectures" not in config:
        published = MADE[family].architecture if family in MADE else ""
        config["architectures"] = [published] if published else json.loads(reference.read_text())["architectures"]
        file.write_text(json.dumps(config))


def write(family: str, work: Path) -> None:
    """Write a family's folders, and say what is refused."""
    name_architecture(family, work)
    for name in EXCHANGES:
        own = work / "exchange" / name / "own"
        for program in ("vllm", "gguf"):
            folder = work / program / name
            shutil.rmtree(folder, ignore_errors=True)
            if not own.exists():
                continue
            try:
                with building(family):
                    found = export(str(own), program, folder)
                print(f"{family} {name}: {found.n_layers} layers for {program}", flush=True)
            except VloraError as error:
                print(f"{family} {name}: {error}", flush=True)


def main() -> None:
    """Export the named families, or all."""
    options = make_parser("vllm_export", __doc__, "what tests.golden.peft_prepare wrote").parse_args()
    for family in options.families or FAMILIES:
        write(family, options.work / family)


if __name__ == "__main__":
    main()
