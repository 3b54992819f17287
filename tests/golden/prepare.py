"""First stage of the golden files, in vlora's environment: writes down what the reference has to reproduce.

    python -m tests.golden.prepare --work /tmp/golden            # all families, or name some
    .venv-reference/bin/python -m tests.golden.generate --work /tmp/golden

Per family it writes: `model/`, the tiny checkpoint under published names; `rows.safetensors`, what vlora's encoder
makes of the rows; `rows.json`, the texts they were made of; `weights.safetensors` and `dequantized.safetensors`, all
parameters by mlx-vlm's names; `trained.json`, the names and shapes of what each run trains.
"""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS
from tests.arrays import load_arrays

# isort: split

import json
from pathlib import Path

import mlx.core as mx
import numpy as np

from vlora import init_state, make_optimizer
from vlora.recipe.schema import OptimSection

from .cases import CASES, RUNS, input_arrays
from .mlx_side import embed_rows, encode_rows, frozen_weights, initial_parameters, open_backbone, publish, write_folder
from .stages import make_parser


def prepare(family: str, folder: Path) -> None:
    """Write what the reference needs of one family."""
    model = write_folder(family, folder / "model")
    weights = frozen_weights(model, is_quantized=False)
    check_round_trip(family, model, weights)
    mx.save_safetensors(str(folder / "weights.safetensors"), as_arrays(weights))
    dequantized = frozen_weights(model, is_quantized=True)
    changed = {name: value for name, value in dequantized.items() if not np.array_equal(value, weights[name])}
    mx.save_safetensors(str(folder / "dequantized.safetensors"), as_arrays(changed))

    rows = encode_rows(family, model)
    arrays: dict[str, np.ndarray] = {}
    texts = []
    for name, example, text in zip(CASES[family].rows, rows.examples, rows.texts, strict=True):
        arrays |= {f"{name}.tokens": example.tokens, f"{name}.supervised": example.supervised}
        arrays |= {f"{name}.inputs.{key}": value for key, value in input_arrays(example.inputs).items()}
        texts.append(text)
    for kind, is_quantized in (("embeds", False), ("quantized_embeds", True)) if CASES[family].language else ():
        embedded = embed_rows(model, rows, CASES[family].rows, is_quantized=is_quantized)
        arrays |= {f"{name}.{kind}": value for name, value in embedded.items()}
    mx.save_safetensors(str(folder / "rows.safetensors"), as_arrays(arrays))
    (folder / "rows.json").write_text(json.dumps(texts))

    trained = {}
    for name, run in RUNS.items():
        if name in CASES[family].skipped:
            continue
        state = init_state(open_backbone(model, CASES[family], run), make_optimizer(OptimSection(name="sgd")))
        trained[name] = {key: list(value.shape) for key, value in initial_parameters(state).items()}
    (folder / "trained.json").write_text(json.dumps(trained))


def check_round_trip(family: str, model: Path, weights: dict[str, np.ndarray]) -> None:
    """Make sure that mlx-vlm read every parameter of the published layout as it was written, or plus one."""
    published = publish(CASES[family], weights)
    written = [np.array(value) for value in load_arrays(model / "model.safetensors").values()]
    pool = {sample(value + np.float32(offset)) for value in written for offset in (0, 1)}
    lost = [name for name, value in published.items() if sample(value) not in pool]
    if lost:
        print(f"{family}: mlx-vlm changed on loading: {lost[:5]}")


def sample(value: np.ndarray) -> tuple[float, ...]:
    """Take some of an array's values, the same whatever the order of its axes."""
    return tuple(np.sort(value.reshape(-1))[:: max(1, value.size // 50)])


def as_arrays(values: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """Move arrays to the device, whatever they are."""
    return {name: mx.array(np.asarray(value)) for name, value in values.items()}


def main() -> None:
    """Prepare the named families, or all."""
    options = make_parser("prepare", __doc__, "where to write").parse_args()
    for family in options.families or CASES:
        prepare(family, options.work / family)
        print(f"{family}: prepared", flush=True)


if __name__ == "__main__":
    main()
