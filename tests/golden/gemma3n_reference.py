"""The torch side of tests/golden/gemma3n.py; needs neither MLX nor vlora."""

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from .cases import RUNS, Array, Case, fingerprint
from .generate import MismatchError, Place, TorchRow, make_trainable, train

FOLDER = Path(__file__).parent / "gemma3n"


def open_model(work: Path, weights: dict[str, Array]) -> Gemma3nForCausalLM:
    """Give transformers' language model the weights.

    Raises:
        MismatchError: It has others, or more.
    """
    config = Gemma3nTextConfig(**json.loads((work / "config.json").read_text()), attn_implementation="eager")
    model = Gemma3nForCausalLM(config).eval()
    named = {name.removeprefix("language_model."): torch.from_numpy(value) for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(named, strict=False)
    # The head is the embedding.
    if set(missing) != {"lm_head.weight"} or unexpected:
        msg = f"missing {missing}, unexpected {unexpected}"
        raise MismatchError(msg)
    model.tie_weights()
    return model


def main() -> None:
    """Train as vlora does, and write the numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden.gemma3n_reference", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--work", required=True, type=Path, help="what tests.golden.gemma3n wrote")
    work = parser.parse_args().work
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    weights, arrays = load_file(work / "weights.safetensors"), load_file(work / "rows.safetensors")
    rows = [
        TorchRow(
            {"input_ids": torch.from_numpy(arrays[f"{number}.tokens"].astype(np.int64))[None]},
            torch.from_numpy(arrays[f"{number}.supervised"].astype(bool)),
        )
        for number in range(len(arrays) // 2)
    ]
    stored: dict[str, Array] = {}
    runs: dict[str, Any] = {}
    for name, shapes in json.loads((work / "trained.json").read_text()).items():
        model = open_model(work, load_file(work / "dequantized.safetensors") if RUNS[name].is_quantized else weights)
        places = {
            key: Place(key.removeprefix("language_model."), None, tuple(range(value.ndim)), 0.0)
            for key, value in weights.items()
        }
        trained = make_trainable(RUNS[name], model, shapes, places)
        initial = trained.values()
        losses, norms = train(Case(), RUNS[name], trained, rows)
        for key, value in trained.values().items():
            kept = value if RUNS[name].whole else fingerprint(key, value - initial[key])
            stored[f"{name}.{key}"] = np.ascontiguousarray(kept)
        runs[name] = {"losses": losses, "grad_norms": norms}
        print(f"{name}: loss {losses[0]:.4f} to {losses[-1]:.4f}, norms {norms[0]:.3g}", flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "reference.json").write_text(json.dumps({"runs": runs, "versions": versions}, indent=1) + "\n")
    save_file(stored, FOLDER / "reference.safetensors")


if __name__ == "__main__":
    main()
