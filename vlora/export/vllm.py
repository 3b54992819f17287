"""What vLLM takes of an adapter in PEFT's layout. Pure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..models.published.peft_layout import FUSE
from .peft import PeftAdapter

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""

WITHOUT_LORA = frozenset(
    {
        *("cohere2_vision", "deepseek_vl_v2", "gemma3n", "kimi_k25", "kimi_vl", "llava_onevision", "moondream3"),
        *("ovis2", "paddleocr_vl", "phi3_v"),
    }
)
"""Architectures whose classes in vLLM 0.33 take no adapters."""

UNSERVED = frozenset({"mllama"})
"""Architectures that vLLM had and has no more."""

TOWERS = frozenset(
    {
        *("gemma3", "gemma4", "glm4v", "idefics3", "internvl", "lfm2_vl", "llama4", "llava", "llava_next", "paligemma"),
        *("pixtral", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_omni_moe", "qwen3_vl", "smolvlm", "dots_ocr"),
    }
)
"""Architectures whose towers and connectors vLLM adapts, with `--enable-tower-connector-lora`; in others it passes them
over."""


def check_vllm(adapter: PeftAdapter, config: Mapping[str, Any]) -> None:
    """Refuse what vLLM refuses, or passes over without an error.

    Args:
        adapter: In PEFT's layout.
        config: The base's config.json.

    Raises:
        ModelError: What it does not take, and what to do.
    """
    kind, found = str(config.get("model_type")), adapter.config
    largest = max([found["r"], *found["rank_pattern"].values()])
    outside = adapter.outside
    reasons = (
        (found["use_dora"], "vLLM takes no DoRA"),
        (found["modules_to_save"], "vLLM takes no embeddings, heads or other layers that were trained whole"),
        (largest > RANKS[-1], f"vLLM takes ranks up to {RANKS[-1]}, and the adapter has {largest}"),
        (kind in WITHOUT_LORA, f"vLLM takes no adapters of {kind} models"),
        (kind in UNSERVED, f"vLLM serves no {kind} models any more"),
        (
            outside and kind not in TOWERS,
            f"vLLM passes over adapters of {kind} towers and connectors, as on {next(iter(outside), '')}",
        ),
    )
    for applies, reason in reasons:
        if applies:
            msg = f"--to vllm: {reason}; {FUSE}"
            raise ModelError(msg)


def vllm_usage(adapter: PeftAdapter, folder: Path) -> list[str]:
    """Write the command that serves an adapter."""
    found = adapter.config
    largest = max([found["r"], *found["rank_pattern"].values()])
    rank = next(rank for rank in RANKS if rank >= largest)
    tower = " --enable-tower-connector-lora" if adapter.outside else ""
    base = found["base_model_name_or_path"]
    return [f"vllm serve {base} --enable-lora --max-lora-rank {rank}{tower} --lora-modules tuned={folder}"]
