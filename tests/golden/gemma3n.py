"""Gemma 3n's language model against transformers + PEFT, on text.

Its tower has sizes that no configuration changes, so that there is no tiny checkpoint that both sides could open: the
weights of the tiny model of tests/families are given to transformers' language model. To make the numbers again:

    python -m tests.golden.gemma3n --work /tmp/golden/gemma3n
    .venv-reference/bin/python -m tests.golden.gemma3n_reference --work /tmp/golden/gemma3n
"""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import argparse
import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from tests.families import FAMILIES, build
from vlora import Example, backend, init_state, make_optimizer
from vlora.backend import loading
from vlora.backend.families import describe_family
from vlora.recipe import LoraSection, ModelSection, OptimSection
from vlora.targets import find_targets

from .cases import ALPHA, BITS, GROUP_SIZE, RANK, RUNS, Array
from .compare import Difference, differ
from .mlx_side import Result, computed_weights, initial_parameters, train_backbone

FOLDER = Path(__file__).parent / "gemma3n"
COMPARED = ("qv", "linears", "qlora", "full")
REMARK = "its language model is compared, on text: its tower has sizes that no configuration changes"
TINY = FAMILIES["gemma3n"]
SHARING = r"layers\.[45]\.self_attn\.[kv]_(proj|norm)\."
"""Of layers that take keys and values of earlier ones: mlx-vlm holds such weights, and transformers does not."""


def rows() -> list[Example]:
    """Draw six rows of text."""
    generator = np.random.default_rng(0)
    drawn = []
    for number, (length, n_answer) in enumerate(((9, 3), (21, 12), (14, 2), (30, 17), (12, 5), (25, 9))):
        tokens = generator.integers(10, 100, length).astype(np.int32)
        supervised = np.arange(length) >= length - n_answer
        nothing = np.zeros(length, dtype=bool)
        drawn.append(Example(source=f"row {number}", tokens=tokens, supervised=supervised, placeholders=nothing))
    return drawn


def open_backbone(run: str) -> backend.MlxVlmBackbone:
    """Make the tiny model, and make trainable what a run trains of its language model."""
    bits = BITS if RUNS[run].is_quantized else None
    section = ModelSection(path="gemma3n", quantize_bits=bits, quantize_group_size=GROUP_SIZE)
    backbone, quantized = loading.prepare(build(TINY), describe_family("gemma3n"), section)
    if RUNS[run].trains == "everything":
        backend.unfreeze_language(backbone)
        return backbone
    names = find_targets(backbone.module, backbone.layout, LoraSection())
    kept = ("q_proj", "v_proj") if RUNS[run].trains == "qv" else ("",)
    targets = tuple(name for name in names if name.endswith(kept) and not re.search(SHARING, f"{name}."))
    backend.add_lora(backbone, LoraSection(rank=RANK, alpha=ALPHA, targets=targets), seed=0, quantized=quantized)
    return backbone


def run_again(run: str) -> Result:
    """Do a run."""
    return train_backbone(open_backbone(run), RUNS[run], rows())


def compare(run: str) -> Difference:
    """Do a run and measure how far it is from the reference; what only mlx-vlm holds does not move."""
    result = run_again(run)
    sharing = {name for name in result.final if re.search(SHARING, name)}
    assert all(np.array_equal(result.initial[name], result.final[name]) for name in sharing)
    for held in (result.initial, result.final):
        for name in sharing:
            held.pop(name)
    stored: dict[str, Any] = json.loads((FOLDER / "reference.json").read_text())["runs"][run]
    arrays = mx.load(str(FOLDER / "reference.safetensors"))
    own: dict[str, Array] = {
        name.removeprefix(f"{run}."): np.array(value) for name, value in arrays.items() if name.startswith(f"{run}.")
    }
    return differ(stored, own, run, result)


def held(weights: dict[str, Any]) -> dict[str, Any]:
    """Keep what transformers' language model holds too."""
    return {
        name: value for name, value in weights.items() if name.startswith("language_") and not re.search(SHARING, name)
    }


def main() -> None:
    """Write what the reference needs: weights, rows, and the shapes of what each run trains."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.gemma3n", description=__doc__.splitlines()[0])
    parser.add_argument("--work", required=True, type=Path, help="where to write")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    weights = held(dict(tree_flatten(build(TINY).parameters())))
    mx.save_safetensors(str(work / "weights.safetensors"), weights)
    section = ModelSection(path="gemma3n", quantize_bits=BITS, quantize_group_size=GROUP_SIZE)
    quantized, _ = loading.prepare(build(TINY), describe_family("gemma3n"), section)
    dequantized = {name: mx.array(value) for name, value in held(computed_weights(quantized.module)).items()}
    mx.save_safetensors(str(work / "dequantized.safetensors"), dequantized)
    arrays = {}
    for number, row in enumerate(rows()):
        arrays |= {f"{number}.tokens": mx.array(row.tokens), f"{number}.supervised": mx.array(row.supervised)}
    mx.save_safetensors(str(work / "rows.safetensors"), arrays)
    (work / "config.json").write_text(json.dumps(TINY.config["text_config"]))
    trained = {}
    for run in COMPARED:
        state = init_state(open_backbone(run), make_optimizer(OptimSection(name="sgd")))
        shapes = {name: list(value.shape) for name, value in initial_parameters(state).items()}
        trained[run] = {name: shape for name, shape in shapes.items() if not re.search(SHARING, name)}
    (work / "trained.json").write_text(json.dumps(trained))


if __name__ == "__main__":
    main()
