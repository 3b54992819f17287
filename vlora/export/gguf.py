"""An adapter in PEFT's layout as llama.cpp's converter reads it. Pure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ModelError
from ..models.published.peft_layout import FUSE
from .peft import PeftAdapter


def to_gguf(adapter: PeftAdapter, config: Mapping[str, Any]) -> PeftAdapter:
    """Multiply the scale into the factors: the converter reads one alpha, of one rank, and knows no other scale.

    Args:
        adapter: In PEFT's layout.
        config: The base's config.json.

    Raises:
        ModelError: llama.cpp has no form for it, and what to do.
    """
    found = adapter.config
    outside = adapter.outside
    reasons = (
        (found["use_dora"], "llama.cpp takes no DoRA"),
        (found["modules_to_save"], "llama.cpp takes no embeddings, heads or other layers that were trained whole"),
        (outside, f"llama.cpp takes no adapters of towers and connectors, as on {next(iter(outside), '')}"),
        (
            # Weights of layers may be named there, too, which are none.
            any(not name.endswith(".weight") for name in found["target_parameters"] or ()),
            f"llama.cpp reads no adapters of {config.get('model_type')}'s experts",
        ),
    )
    for applies, reason in reasons:
        if applies:
            msg = f"--to gguf: {reason}; {FUSE}, which its convert_hf_to_gguf.py reads, once more with --mmproj"
            raise ModelError(msg)
    # Every layer's scale is alpha / rank, whatever its rank.
    scale = found["lora_alpha"] / found["r"]
    arrays = {
        name: (value * value.dtype.type(scale)) if name.endswith(".lora_B.weight") else value
        for name, value in adapter.arrays.items()
    }
    # With alpha = r its scale is 1 for layers of the common rank; of others it would be r / rank.
    patterns = found["rank_pattern"]
    for pattern, rank in patterns.items():
        module = pattern.replace("\\.", ".").removesuffix(".weight")
        name = f"base_model.model.{module}.lora_B.weight"
        arrays[name] = arrays[name] * arrays[name].dtype.type(rank / found["r"])
    return attrs.evolve(adapter, arrays=arrays, config={**found, "lora_alpha": found["r"], "alpha_pattern": {}})


def gguf_usage(adapter: PeftAdapter, folder: Path) -> list[str]:
    """Write the two commands: one makes the file, the other uses it."""
    base = adapter.config["base_model_name_or_path"]
    is_folder = Path(base).is_dir()
    given = f"--base {base}" if is_folder else f"--base-model-id {base}"
    file = f"{folder}.gguf"
    return [
        f"python convert_lora_to_gguf.py {folder} {given} --outtype f16 --outfile {file}",
        f"llama-mtmd-cli -m base.gguf --mmproj mmproj.gguf --lora {file} --image picture.png -p 'What is it?'",
    ]
