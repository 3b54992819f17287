"""What was measured, in lines."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from vlora.ops import blas

# isort: split
import mlx.core as mx

from ..machine import find_version


def describe_machine() -> dict[str, Any]:
    """Say what the numbers were measured on."""
    device = mx.default_device()
    return {
        "device": str(device),
        "chip": mx.device_info().get("device_name") or platform.processor() or platform.machine(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "mlx": find_version("mlx"),
        "mlx_vlm": find_version("mlx-vlm"),
        "vlora": find_version("vlora"),
        # None: MLX keeps the BLAS that it came with, which on Linux CPUs is slow.
        "blas": blas.LOADED,
    }


def show_machine(machine: Mapping[str, Any]) -> None:
    """Print the header."""
    print(f"vlora {machine['vlora']}, mlx-vlm {machine['mlx_vlm']}, mlx {machine['mlx']}, Python {machine['python']}")
    print(f"{machine['device']}: {machine['chip']}; {machine['os']}")
    print(f"fast BLAS: {machine['blas'] or 'none loaded; MLX uses its own'}")


COLUMNS = (
    ("tokens/s", "tokens_per_s", ",.0f"),
    ("superv./s", "supervised_tokens_per_s", ",.0f"),
    ("peak GB", "peak_memory_gb", ".3f"),
    ("median ms", "median_ms", ",.1f"),
    ("min ms", "min_ms", ",.1f"),
    ("max ms", "max_ms", ",.1f"),
    ("trace s", "trace_s", ".2f"),
    ("traces", "n_traces", "d"),
    ("loss", "loss", ".4f"),
)


def show_result(result: Mapping[str, Any]) -> None:
    """Print what was found of one recipe."""
    print(f"\n{result['recipe']}", flush=True)
    if "error" in result:
        print(f"  cannot be measured: {result['error']}")
        return
    rows, lengths = sorted(set(result["batch_rows"])), sorted(set(result["padded_tokens"]))
    print(
        f"  {result['model_type']}, {result['vlora']['n_trainable']:,} parameters trained; batches "
        f"of {join(rows)} rows padded to {join(lengths)} tokens, from {result['n_distinct_steps']} "
        "of the run's steps"
    )
    print("".join(["  step   ", *(f"{title:>11}" for title, _, _ in COLUMNS)]))
    for name, key in (("vlora", "vlora"), ("mlx-vlm", "peer")):
        side = result.get(key)
        if side is None:
            continue
        if "error" in side:
            print(f"  {name}: cannot be measured: {side['error']}")
            continue
        print("".join([f"  {name:<7}", *(f"{side[key]:>11{kind}}" for _, key, kind in COLUMNS)]))
        if side["n_late_traces"]:
            print(f"  {name}: {side['n_late_traces']} traces fell into timed steps")
    if "ratio" in result:
        notes = f" (which {', '.join(result['peer']['notes'])})" if result["peer"]["notes"] else ""
        print(f"  vlora takes {result['ratio']:.2f} times the tokens/s of mlx-vlm{notes}")


def join(numbers: Sequence[int]) -> str:
    """Write a few numbers, or the range of many."""
    few = 4
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > few else "/".join(map(str, numbers))
