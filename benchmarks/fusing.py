"""What memory `python -m vlora fuse` takes beside the size of a file of weights.

python -m benchmarks.fusing [--layers 4] [--shard-mb 60] [--quantize keep none 4] [--bits 4]

A Qwen3-VL of 2B with fewer layers and words, and with random bfloat16 weights is divided into files, and an adapter of
rank 16 lies on all linear layers of its language model. Each way to fuse it runs in a process of its own, whose highest
resident memory is read when the adapter is there and no weight yet, and at the end. The difference has to stay under
two files.
"""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from vlora import models, save_adapter
from vlora.build import load_model
from vlora.export.fuse import CHOICES, fuse
from vlora.export.trained import open_trained
from vlora.recipe.schema import DataSection, LoraSection, ModelSection, Recipe

from .folders import draw_folder
from .shapes import SHAPES

RANK = 16
WORDS = 32_768


def divide(folder: Path, largest: int) -> int:
    """Divide a folder's one file of weights.

    Returns:
        Bytes of the largest file.
    """
    whole = folder / "model.safetensors"
    arrays: Any = mx.load(str(whole), return_metadata=True)
    arrays, metadata = arrays
    parts: list[dict[str, mx.array]] = [{}]
    size = 0
    for name in sorted(arrays):
        if parts[-1] and size + arrays[name].nbytes > largest:
            parts.append({})
            size = 0
        parts[-1][name] = arrays[name]
        size += arrays[name].nbytes
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        mx.save_safetensors(str(folder / file), part, metadata=metadata)
        index |= dict.fromkeys(part, file)
    whole.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return max(int((folder / file).stat().st_size) for file in set(index.values()))


def attach(folder: Path, adapter: Path) -> int:
    """Write an adapter that adds something to all linear layers of the language model.

    Returns:
        Its bytes.
    """
    recipe = Recipe(model=ModelSection(path=str(folder)), data=DataSection(path="-"), lora=LoraSection(rank=RANK))
    backbone, config = load_model(recipe, models.find_model(recipe.model), is_abstract=True)
    params = dict(tree_flatten(backbone.module.trainable_parameters()))
    save_adapter(adapter, {name: 0.01 * mx.ones_like(value) for name, value in params.items()}, config)
    return int(adapter.stat().st_size)


def most_resident() -> int:
    """Give the most bytes that this process has had in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # What `getrusage` says on Linux is the most of the process that has started this one, too.
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure(adapter: Path, out: Path, quantize: Any, largest: int) -> None:
    """Fuse, and print what memory that took: the most bytes until the adapter was read, and until the end."""
    before = 0

    def opened(recipe: Recipe) -> Any:
        nonlocal before
        trained = open_trained(recipe)
        before = most_resident()
        return trained

    with patch("vlora.export.fuse.open_trained", opened):
        fuse(str(adapter), out, quantize=quantize, largest=largest)
    print(json.dumps({"before": before, "peak": most_resident()}))


def main() -> int:
    """Measure each way; 1 if one takes more than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusing", description=__doc__)
    parser.add_argument("--layers", type=int, default=4, help="of the language model and of the tower")
    parser.add_argument("--shard-mb", type=int, default=60)
    parser.add_argument("--bits", type=int, default=None, help="of the base's weights; bfloat16 without it")
    parser.add_argument("--quantize", nargs="+", choices=CHOICES, default=["keep", "none", "4"])
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        adapter, out, quantize, largest = options.measure
        measure(Path(adapter), Path(out), quantize, int(largest))
        return 0
    failed = 0
    with tempfile.TemporaryDirectory(prefix="fusing-") as place:
        folder, adapter = Path(place) / "base", Path(place) / "run" / "adapters.safetensors"
        n_layers = options.layers
        shape = attrs.evolve(SHAPES["2b"], layers=n_layers, tower_layers=n_layers, words=WORDS, deepstack=(0, 1, 2))
        draw_folder(shape, folder, dtype=mx.bfloat16, bits=options.bits)
        shard = divide(folder, options.shard_mb * 10**6)
        extra = attach(folder, adapter)
        allowed = 2 * shard
        print(
            f"files of {shard / 1e6:.0f} MB at most, adapter of {extra / 1e6:.0f} MB: {allowed / 1e6:.0f} MB allowed",
            flush=True,
        )
        for quantize in options.quantize:
            words = [str(adapter), str(Path(place) / f"out-{quantize}"), quantize, str(options.shard_mb * 10**6)]
            command = [sys.executable, "-m", "benchmarks.fusing", "--measure", *words]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            taken = found["peak"] - found["before"]
            failed += taken > allowed
            print(f"--quantize {quantize}: {taken / 1e6:.0f} MB beyond {found['before'] / 1e6:.0f} MB", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
