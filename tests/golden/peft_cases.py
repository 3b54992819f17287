"""Adapters that are exchanged with PEFT, as data. Read by both sides, so it needs neither MLX nor torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .cases import CASES
from .made_cases import MADE

SAME = 1e-4
"""Largest difference of logits, in float32."""

MOVED = 0.1
"""Least difference that an adapter makes."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """An adapter that one side writes and the other reads.

    Attributes:
        meaning: What it is, for the table's readers.
        lora: The recipe's section.
        instead_of: Another adapter that has all of it; this one is for families that cannot have that.
    """

    meaning: str
    lora: Mapping[str, Any] = field(default_factory=dict)
    instead_of: str = ""


EXCHANGES: Mapping[str, Exchange] = {
    "lora": Exchange(
        meaning="LoRA on all linear layers: language model, experts, tower and connector",
        lora={"rank": 4, "alpha": 8.0, "targets": ("language", "vision", "connector")},
    ),
    "rslora": Exchange(
        meaning="rsLoRA on the language model", lora={"rank": 4, "alpha": 6.0, "rslora": True, "targets": ("language",)}
    ),
    "dora": Exchange(meaning="DoRA on the language model", lora={"rank": 4, "alpha": 8.0, "method": "dora"}),
    "pissa": Exchange(meaning="PiSSA on the language model", lora={"rank": 2, "alpha": 4.0, "init": "pissa"}),
    "experts": Exchange(
        meaning="LoRA on the experts of mixtures", lora={"rank": 4, "alpha": 8.0, "targets": ("experts",)}
    ),
    "tower": Exchange(
        meaning="LoRA on attention, tower and connector of mixtures, which cannot have experts beside them",
        lora={"rank": 4, "alpha": 8.0, "targets": ("attention", "vision", "connector")},
        instead_of="lora",
    ),
    "tables": Exchange(
        meaning="LoRA on attention, beside trained embeddings and head",
        lora={"rank": 4, "alpha": 8.0, "targets": ("attention",), "train_embeddings": True, "train_head": True},
    ),
}

CALLED_OTHERWISE = {"phi4mm": "phi4_multimodal"}
"""Families that are not compared and that transformers has under another name than mlx-vlm."""

LEFT_OUT = {
    "deepseek_vl_v2": "transformers 5.23.0 makes no such model; of its parts it has the language model alone "
    "(deepseek_v2), which opens none of its checkpoints",
    "kimi_vl": "transformers 5.23.0 makes no such model; of its parts it has the language model alone (deepseek_v3), "
    "and its successor (kimi_k25) has a tower with positions in time besides",
    "phi4mm": "transformers calls it phi4_multimodal, and mlx-vlm makes another model of its checkpoint: an image is "
    "read in its own size (phi4mm/vision.py:141), where the published model cuts it, joins four features to one and "
    "writes separators between them (modeling_phi4_multimodal.py:473, :531), whose weights mlx-vlm drops "
    "(phi4mm.py:304); and the checkpoint's own LoRA for images is merged into the language model (:379), which "
    "transformers keeps in a folder beside it, so that adapters are fused and not exported",
    "muse_spark": "transformers makes it, but vlora does not train it: its layers in mlx-vlm are Metal kernels, which "
    "have no gradients and run on no other device (muse_spark/language.py:9)",
}
"""Families that both vlora and transformers have and that are not compared, and why."""

FAMILIES = tuple(dict.fromkeys(family for family in (*CASES, *MADE) if family not in LEFT_OUT))
