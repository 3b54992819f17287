"""Third stage of the exchange with PEFT, in vlora's environment: reads PEFT's folders, and writes the table."""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.arrays import load_arrays
from vlora import init_state, make_optimizer, models
from vlora.errors import VloraError
from vlora.models.load.saved_adapters import open_adapter
from vlora.models.proven_versions import PROVEN
from vlora.recipe.schema import ModelSection, OptimSection

from .cases import CASES
from .made_cases import MADE
from .made_side import building, read_rows
from .peft_cases import EXCHANGES, FAMILIES, LEFT_OUT, MOVED, SAME
from .peft_prepare import logits
from .stages import make_parser

PROGRAMS = """
## vLLM and llama.cpp

Read with vLLM 0.33.0's own source, without a GPU (`tests/golden/vllm_names.py`): its parser and each class's
`hf_to_vllm_mapper` take all 4,920 names of the 101 folders that `--to vllm` writes of the adapters above (35
families), and give names that begin as the modules of its classes do, those of a language model's layers behind its
prefix too. Folders of deepseekocr_2, unlimited_ocr and molmo2 have published names, as their classes' mappers take
them: by transformers' names these find no layer. A folder of ernie4_5_moe_vl would have them too; its adapters above
are refused, being of experts, which its class does not find by an adapter's names, or of the tower. Refused with a
sentence, and not written: DoRA and trained tables of all families; all adapters of mllama, idefics2, aya_vision,
hunyuan_vl, florence2, got, fastvlm, multi_modality and inkling, for which it has no class of its own, and of
llava_onevision, minimax_m3_vl, kimi_k25,
step3p7, paddleocr_vl and gemma3n, whose classes take none; towers of mistral3, internvl, muse_glimmer, cohere_compass,
nemotron_h_nano_omni, granite4_vision, molmo2, deepseekocr_2, unlimited_ocr and both MiniCPM-V, which it passes over.
`vlora/export/vllm_classes.py` is read out of the same source.

Its code that loads stacks of experts (`lora/model_manager.py`, for classes that take stacks and for those that are
told of them) makes of the folders of qwen3_vl_moe, qwen3_5_moe, qwen3_omni_moe, qwen4_exp, gemma4_moe, glm4v_moe and
glm5_next the updates of vlora's adapters, up to 2e-7 of the largest. Refused are stacks that it would read otherwise:
those of llama4, which multiply from the right, of nemotron_h_nano_omni, which have no gates, and experts of which only
some layers have adapters.

The names of layers that a class joins with others have to stand in its `packed_modules_mapping`, or it refuses the
folder (`check_unexpected_modules`), which `vllm_names.py` does not see. By reading that mapping of the families above,
those of the attention of glm5_next and of the gates in the towers of glm4v and glm_ocr do not stand there. Adapters of
them are refused since the names above were counted.

llama.cpp's `convert_lora_to_gguf.py` (of llama-cpp-python 0.3.36) converts the folders that `--to gguf` writes of the
rsLoRA adapters of qwen3_vl, qwen2_vl and llava (28 of 28 tensors each) and of gemma3 (56 of 56), and of the PiSSA
adapter of qwen2_vl (28 of 28); alpha is the rank in each, and the numbers are those of the folders.
"""
"""What was seen with programs that are no part of the tests."""

FUSED = """
## Fused models

Opened through mlx-vlm, a fused folder of each of the 84 tiny families has the trained logits in float32 up to 1e-5 of
the largest (`tests/export/test_fused_families.py`, for the language model alone and with tower and connector; it names
six families that amplify rounding). Molmo-Point is one of them because mlx-vlm reads its float32 weights as float16
(molmo_point/molmo_point.py:967): the fused weights are rounded to float16, the adapter beside the base is not, and with
its tower the logits are 8.4e-3 of the largest apart. Gemma 3's rows of text differ by 5.8e-3 between mlx_vlm's forward
of a fused folder and vlora's, because mlx-vlm scales the embeddings by a root in bfloat16's precision
(gemma3/language.py:210): with that root in float32 they differ by 1.7e-6, and in mlx_vlm the folder and the adapter
beside its base differ by 2.5e-6.

In bfloat16 (`tests/export/test_fused_bfloat16.py`) vlora's forward of a fused folder is mlx_vlm's own of it, on a row
of text or, where mlx-vlm computes text otherwise, on one with an image: to the bit for 77 families, and up to 4e-6 of
the largest logit for five that compute in float32. Two families are set apart, and one is not compared:

- Falcon-OCR: mlx-vlm rounds the logits once more (3.4e-3, falcon_ocr/language.py:428). The forward is in float32 in
  both programs, because the weights of its norms are no parameters (:170). vlora's logits are those of the same
  numbers in float32, and mlx-vlm's are farther from them. In a folder whose table of embeddings is in float32,
  mlx-vlm's logits are vlora's; `fuse` leaves each array in the type that it has in the base.
- GLM-5: both programs agree to the bit on a row that is padded as vlora pads it. Without the padding mlx-vlm's own
  logits are others by 1e-2. Its hyper-connections multiply in float32 (deepseek_v4/hyper_connection.py:394), and such
  products differ by 1e-6 with the number of tokens on a CPU. One number is rounded to the neighbouring one of
  bfloat16 (:426), and later layers amplify that. Both are equally far from float32.
- MiniMax-M3: mlx-vlm computes its index otherwise (minimax_m3_vl/language.py:1680).

Towers are not a part of this: where vlora runs images through a tower in an order of its own (Qwen3-VL, Qwen3.5),
logits in bfloat16 differ by 1e-2 from mlx_vlm's, and both are equally far from float32. On a CPU, MLX multiplies
chosen experts in float32 only; there the test rounds its products.

The adapter beside the same base is another sum in bfloat16: its logits are 1.7 to 4.2 % of the largest from those of
the folder. How far either is from the same adapter in float32 was measured on two adapters of each family (four of
Unlimited-OCR): the folder 0.5 to 1.25 times, in the middle 0.99 times as far as the adapter and the rounding of the
weights W + BA make together, each measured apart and added by their squares. No folder in bfloat16 is without that
rounding.
"""
"""What fused models give, in both precisions."""

TABLE = Path(__file__).parents[2] / "vlora" / "export" / "parity.md"


def read_back(model: Path, folder: Path) -> dict[str, Any]:
    """Read one adapter of PEFT's own and compare logits; read vlora's own back and compare arrays."""
    section = ModelSection(path=str(model))
    files = models.find_model(section)
    rows = read_rows(model.parent.name, model)
    found: dict[str, Any] = {}
    backbone, _ = models.load_backbone(files, section)
    own = load_arrays(folder / "own" / "adapters.safetensors")
    if case := CASES.get(model.parent.name):
        # transformers has no layers that nothing reads.
        own = {name: value for name, value in own.items() if not case.is_unread(name)}
    config = json.loads((folder / "own" / "adapter_config.json").read_text())
    back, read = open_adapter(backbone, str(folder / "peft"), files)
    same = set(back) == set(own) and all(np.array_equal(np.array(back[key]), np.array(own[key])) for key in own)
    scale, expected = read["lora_parameters"]["scale"], config["lora_parameters"]["scale"]
    found["bitwise"] = bool(same and abs(scale - expected) <= np.spacing(expected))
    if (folder / "theirs").exists():
        models.load_adapter(backbone, folder / "theirs", files=files)
        state = init_state(backbone, make_optimizer(OptimSection(name="sgd")))
        theirs = load_arrays(folder / "theirs" / "logits.safetensors")
        pairs = zip(logits(backbone, state, rows), (np.array(theirs[str(n)]) for n in range(len(rows))), strict=True)
        found["read"] = max(float(np.abs(a[: len(b)] - b[: len(a)]).max()) for a, b in pairs)
    return found


def compare(family: str, work: Path) -> dict[str, dict[str, Any]]:
    """Gather what all stages found of a family."""
    prepared = json.loads((work / "exchange" / "prepared.json").read_text())
    reference = json.loads((work / "exchange" / "reference.json").read_text())
    found: dict[str, dict[str, Any]] = {}
    for name in EXCHANGES:
        if name not in reference:
            found[name] = {"refused": prepared.get(name, {}).get("refused", "")}
            continue
        found[name] = {**reference[name]}
        try:
            with building(family):
                found[name] |= read_back(work / "model", work / "exchange" / name)
        except VloraError as error:
            found[name]["failed"] = str(error)
        print(f"{family} {name}: {found[name]}", flush=True)
    return found


def holds(cell: Mapping[str, Any]) -> bool:
    """Whether an adapter means the same on both sides."""
    is_written = cell.get("difference", 1) <= SAME and cell.get("moved", 0) >= MOVED and not cell.get("problems")
    is_read = cell.get("read", 1) <= SAME and cell.get("made", 0) >= MOVED
    return bool(is_written and is_read and cell.get("bitwise") and "failed" not in cell)


def describe(cell: Mapping[str, Any]) -> str:
    """Write one cell."""
    if "refused" in cell:
        return "-"
    text = f"{cell.get('difference', float('nan')):.0e} / {cell.get('read', float('nan')):.0e}"
    return text if holds(cell) else f"**{text}**"


def read_rows_before() -> dict[str, list[str]]:
    """Read the cells of the table that is there, by family: families that are not compared again keep theirs."""
    (_, *names), *rows = (
        line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")
    )
    known = {family: dict(zip(names, cells, strict=True)) for family, *cells in rows if family in FAMILIES}
    return {family: [cells.get(name, "-") for name in EXCHANGES] for family, cells in known.items()}


def document(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Write the table."""
    new = {family: [describe(row.get(name, {"refused": ""})) for name in EXCHANGES] for family, row in found.items()}
    rows = read_rows_before() | new
    cells = [cell for family in rows for cell in rows[family] if cell != "-"]
    lines = [
        "# Adapters exchanged with PEFT",
        "",
        "Written by `python -m tests.golden.peft_table --write`; `tests/golden/peft_prepare.py` lists its stages.",
        "",
        "Each family is a tiny checkpoint, laid out like a published one, in float32. vlora writes an adapter with",
        "`vlora export --to peft`, and `PeftModel.from_pretrained` opens it; PEFT writes one of its own, scaled as",
        "rsLoRA is, and vlora reads it through `model.adapter_path`. A cell holds the largest difference of a logit,",
        "first of vlora's adapter in PEFT, then of PEFT's adapter in vlora, on rows with images. They count as",
        f"the same up to {SAME:g}; every adapter moves the logits by {MOVED:g} at least, PEFT names no missing and no",
        "unexpected array, and vlora's adapter read back from PEFT's folder is the same to the bit:",
        f"{sum('**' not in cell for cell in cells)} of {len(cells)} hold.",
        f"vlora ran on mlx {PROVEN['mlx']} (CPU) and mlx-vlm {PROVEN['mlx-vlm']}, the reference on torch 2.13.0 (CPU),",
        "transformers 5.23.0, peft 0.21.2.",
        "",
        *(f"- **{name}**: {exchange.meaning}." for name, exchange in EXCHANGES.items()),
        "",
        f"| family | {' | '.join(EXCHANGES)} |",
        f"|---|{'---|' * len(EXCHANGES)}",
    ]
    lines += [f"| {family} | {' | '.join(rows[family])} |" for family in FAMILIES if family in rows]
    lines += [
        "",
        "A dash: the family has no such layers, no adapter may have them together, or another column has them.",
        "",
    ]
    lines += [
        f"- {family}: transformers writes the checkpoint, and rows are those of tests/families"
        + (f"; {case.note}." if case.note else ".")
        for family, case in MADE.items()
    ]
    lines += [f"- {family} is left out: {why}." for family, why in LEFT_OUT.items()]
    return "\n".join(lines) + "\n" + FUSED + PROGRAMS


def main() -> int:
    """Compare the named families, or all, and print or write the table."""
    parser = make_parser("peft_table", __doc__, "what the stages before wrote")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} into the package")
    options = parser.parse_args()
    names = [
        name for name in options.families or FAMILIES if (options.work / name / "exchange/reference.json").exists()
    ]
    found = {family: compare(family, options.work / family) for family in names}
    text = document(found)
    if options.write:
        TABLE.write_text(text)
    else:
        print(text)
    cells = [cell for row in found.values() for cell in row.values() if "refused" not in cell]
    return int(not cells or not all(map(holds, cells)))


if __name__ == "__main__":
    raise SystemExit(main())
