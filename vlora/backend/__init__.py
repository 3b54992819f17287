"""The one place that talks to mlx-vlm, its models and its processors."""

import mlx_vlm  # noqa: F401 - first: it quiets transformers, which otherwise warns that torch is missing

from .additions import grow_config, grow_tables, name_saved, name_tokens
from .backbone import MlxVlmBackbone
from .corrections_mixtures import without_metal_kernels
from .differences import DIFFERENCES
from .encoding import Encoder
from .encoding_pairs import make_encoder
from .families import FAMILIES, Family, describe_family
from .features import FeatureCache
from .generation import answer_sample, check_question
from .identity import features_digest
from .images import name_content, open_image
from .lengths import LengthEstimator
from .loading import (
    ModelFiles,
    blank_backbone,
    companions,
    find_model,
    generating,
    load_backbone,
    load_processor,
    number_added,
    save_model,
)
from .measuring import RowMeasurer
from .probes import probe, probe_packing
from .remembering import RowMemory
from .shards import Shards
from .tiny import build_tiny_qwen3_vl
from .trainable import add_lora, load_adapter, unfreeze_language, unfreeze_vision

__all__ = [
    "DIFFERENCES",
    "FAMILIES",
    "Encoder",
    "Family",
    "FeatureCache",
    "LengthEstimator",
    "MlxVlmBackbone",
    "ModelFiles",
    "RowMeasurer",
    "RowMemory",
    "Shards",
    "add_lora",
    "answer_sample",
    "blank_backbone",
    "build_tiny_qwen3_vl",
    "check_question",
    "companions",
    "describe_family",
    "features_digest",
    "find_model",
    "generating",
    "grow_config",
    "grow_tables",
    "load_adapter",
    "load_backbone",
    "load_processor",
    "make_encoder",
    "name_content",
    "name_saved",
    "name_tokens",
    "number_added",
    "open_image",
    "probe",
    "probe_packing",
    "save_model",
    "unfreeze_language",
    "unfreeze_vision",
    "without_metal_kernels",
]
