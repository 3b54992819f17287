"""The one place that talks to mlx-vlm, its models and its processors."""

import mlx_vlm  # noqa: F401 - first: it quiets transformers, which otherwise warns that torch is missing

from ..features.cache import FeatureCache
from ..features.processed import ProcessedCache
from ..features.shard_folder import DeviceMark
from ..features.shard_store import ShardStore
from .backbone.backbone import MlxVlmBackbone
from .backbone.dividing import DividedBytes, divide, find_division, frozen_bytes
from .backbone.head import head_use
from .backbone.startup_checks import check_family, check_packing
from .encode.answers import add_mismatched, encode_answers, link_answers
from .encode.encoder import Encoder
from .encode.factory import make_encoder
from .encode.fingerprint import features_fingerprint
from .encode.images.headers import look_at_image
from .encode.images.opening import name_content, open_image, sample_content
from .encode.lengths import LengthEstimator
from .encode.looking import find_image_tokens, find_roles, restore_pictures
from .encode.measuring import RowMeasurer
from .families.family import Family
from .families.registry import FAMILIES, describe_family
from .forward.attention_masks import TILE, attend_fused
from .forward.metal_kernels import without_metal_kernels
from .forward.tied_head import tied_heads
from .generation.answering import Answered, Answerer, AnswerOptions, answer_options
from .generation.decode import Prompt, Reader, decode, make_reader, with_room
from .generation.questions import Questions, split_question
from .generation.sampling import Sampler, media_tokens
from .generation.upstream import check_question
from .load.added_tokens import Numbered, grow_config, grow_tables, name_saved, name_tokens, write_tokenizer
from .load.conversion import Scheme, choose_schemes, quantized_config, scheme_of
from .load.loading import (
    abstract_backbone,
    fetch_weights,
    generating,
    load_backbone,
    open_lazily,
    quantize_loaded,
    unread_weights,
)
from .load.model_files import ModelFiles, find_model, load_processor, load_tokenizer, number_added
from .load.model_folder import list_weights
from .load.saving import companions, save_model
from .load.tiny import build_tiny_qwen3_vl
from .load.trainable import add_lora, detach, load_adapter
from .load.unfreeze import unfreeze_language, unfreeze_vision
from .proven_versions import describe_unproven

__all__ = [
    "FAMILIES",
    "TILE",
    "AnswerOptions",
    "Answered",
    "Answerer",
    "DeviceMark",
    "DividedBytes",
    "Encoder",
    "Family",
    "FeatureCache",
    "LengthEstimator",
    "MlxVlmBackbone",
    "ModelFiles",
    "Numbered",
    "ProcessedCache",
    "Prompt",
    "Questions",
    "Reader",
    "RowMeasurer",
    "Sampler",
    "Scheme",
    "ShardStore",
    "abstract_backbone",
    "add_lora",
    "add_mismatched",
    "answer_options",
    "attend_fused",
    "build_tiny_qwen3_vl",
    "check_family",
    "check_packing",
    "check_question",
    "choose_schemes",
    "companions",
    "decode",
    "describe_family",
    "describe_unproven",
    "detach",
    "divide",
    "encode_answers",
    "features_fingerprint",
    "fetch_weights",
    "find_division",
    "find_image_tokens",
    "find_model",
    "find_roles",
    "frozen_bytes",
    "generating",
    "grow_config",
    "grow_tables",
    "head_use",
    "link_answers",
    "list_weights",
    "load_adapter",
    "load_backbone",
    "load_processor",
    "load_tokenizer",
    "look_at_image",
    "make_encoder",
    "make_reader",
    "media_tokens",
    "name_content",
    "name_saved",
    "name_tokens",
    "number_added",
    "open_image",
    "open_lazily",
    "quantize_loaded",
    "quantized_config",
    "restore_pictures",
    "sample_content",
    "save_model",
    "scheme_of",
    "split_question",
    "tied_heads",
    "unfreeze_language",
    "unfreeze_vision",
    "unread_weights",
    "with_room",
    "without_metal_kernels",
    "write_tokenizer",
]
