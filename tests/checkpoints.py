"""Tiny but real checkpoints, one per model family, written without a network.

`build_checkpoint` writes a folder that `mlx_vlm.load` opens like a published one: the family's
own model class, processor class, special tokens and file layout; only the sizes and the (random)
weights differ. Facts about a family are data in `FAMILIES`; nothing here imports vlora.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten
from mlx_vlm.utils import get_model_and_args, update_module_configs
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

N_MERGES = 48
WEIGHT_STD = 0.1
GATE = 0.5  # one-element parameters gate a branch and start at zero upstream: open them

CORPUS = (
    "What is in the image? There is a red square and a small blue circle in the image.",
    "Describe the picture. The picture shows a green field and a yellow house under the sky.",
    "How many of them are there? There are three. Read the text in the document.",
    "You are a helpful assistant. Answer the question with a short answer: yes or no.",
)

GPT2_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Token(str):
    """A token's text inside a JSON file of `FAMILIES`; written as the token's id."""

    __slots__ = ()


VOCAB_SIZE = Token()  # written as the language model's vocabulary size


@attrs.frozen(kw_only=True)
class Vocabulary:
    """How a family's tokenizer is made.

    Args:
        first: Special tokens with the lowest ids, in order.
        last: Special tokens behind the learned pieces, in order.
        names: The `bos_token`, `eos_token`, ... entries of tokenizer_config.json.
        stop: Tokens that generation_config.json lists as end of sequence.
        tokenizer_class: What tokenizer_config.json declares.
        adds_bos: Whether encoding with special tokens puts `bos_token` in front.
        sentencepiece: Metaspace pieces with byte fallback instead of byte-level ones.
        words: The regular expression that splits text before the merges (byte-level only).
        multiple: The model's vocabulary is padded to a multiple of this.
        n_beyond_head: Trailing tokens that are embedded but have no logit.
        extra: Further entries of tokenizer_config.json.
    """

    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    names: Mapping[str, str]
    stop: tuple[str, ...]
    tokenizer_class: str = "PreTrainedTokenizerFast"
    adds_bos: bool = False
    sentencepiece: bool = False
    words: str = GPT4_WORDS
    multiple: int = 64
    n_beyond_head: int = 0
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    def model_size(self, n_tokens: int) -> int:
        """Return the language model's vocabulary size for a tokenizer of `n_tokens`."""
        n_logits = n_tokens - self.n_beyond_head
        return -(-n_logits // self.multiple) * self.multiple


@attrs.frozen(kw_only=True)
class Family:
    """One row of `FAMILIES`.

    Args:
        vocabulary: How the tokenizer is made.
        template: The chat template, or None where mlx-vlm's processor carries its own.
        template_in_tokenizer: Whether tokenizer_config.json repeats chat_template.json.
        files: The JSON files of the folder; each `Token` in them is written as a number.
    """

    vocabulary: Vocabulary
    template: str | None
    template_in_tokenizer: bool = True
    files: Mapping[str, Mapping[str, Any]]


# ---------------------------------------------------------------------------------------------
# Chat templates: in the style of the published ones, only as long as a test needs.

_CHATML = (
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3_TEMPLATE = "{% for message in messages %}" + _CHATML
QWEN2_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
) + _CHATML

# No end-of-turn token, images before text; a plain-string content renders as nothing.
LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

LLAMA_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# The assistant's content must be a string: a list cannot be joined to eos_token.
_INSTRUCT_TURNS = (
    "{% if message['role'] == 'user' %}[INST]"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}[IMG]"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}[/INST]"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
)
PIXTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    + _INSTRUCT_TURNS
    + "{% else %}{{ raise_exception('Only user and assistant turns: ' + message['role']) }}"
    "{% endif %}{% endfor %}"
)
MISTRAL3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "[SYSTEM_PROMPT]You are a helpful assistant.[/SYSTEM_PROMPT]{% endif %}"
    + _INSTRUCT_TURNS
    + "{% elif message['content'] is string %}"
    "[SYSTEM_PROMPT]{{ message['content'] }}[/SYSTEM_PROMPT]"
    "{% else %}[SYSTEM_PROMPT]{{ message['content'][0]['text'] }}[/SYSTEM_PROMPT]"
    "{% endif %}{% endfor %}"
)

# No space between the role and an image; content must be a list.
_UTTERANCES = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
IDEFICS3_TEMPLATE = "<|begin_of_text|>" + _UTTERANCES
SMOLVLM_TEMPLATE = "<|im_start|>" + _UTTERANCES

# ---------------------------------------------------------------------------------------------
# Vocabularies

QWEN_VOCABULARY = Vocabulary(
    last=(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
    names={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    stop=("<|im_end|>", "<|endoftext|>"),
    tokenizer_class="Qwen2Tokenizer",
    extra={"add_bos_token": False, "bos_token": None, "unk_token": None},
)

LLAVA_VOCABULARY = Vocabulary(
    first=("<unk>", "<s>", "</s>"),
    last=("<image>", "<pad>"),
    names={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    stop=("</s>",),
    tokenizer_class="LlamaTokenizer",
    adds_bos=True,
    sentencepiece=True,
    extra={
        "add_bos_token": True,
        "add_eos_token": False,
        "extra_special_tokens": {"image_token": "<image>"},
        "image_token": "<image>",
        "legacy": False,
        "padding_side": "left",
    },
)

_LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
MLLAMA_VOCABULARY = Vocabulary(
    last=(*_LLAMA3_TOKENS, "<|image|>"),
    names={
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
    },
    stop=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    adds_bos=True,
    multiple=1,
    n_beyond_head=1,
)
IDEFICS3_VOCABULARY = Vocabulary(
    # <global-img> and <row_i_col_j> are plain text here, as in the published vocabulary.
    last=(*_LLAMA3_TOKENS, "<fake_token_around_image>", "<image>", "<end_of_utterance>"),
    names={
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|reserved_special_token_0|>",
    },
    stop=("<|end_of_text|>",),
    adds_bos=True,
    multiple=1,
)
SMOLVLM_VOCABULARY = Vocabulary(
    first=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    last=(
        "<global-img>",
        *(f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)),
        "<fake_token_around_image>",
        "<image>",
        "<end_of_utterance>",
    ),
    names={
        "bos_token": "<|im_start|>",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    },
    stop=("<end_of_utterance>",),
    tokenizer_class="GPT2Tokenizer",
    words=GPT2_WORDS,
)

_TEKKEN_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
)
PIXTRAL_VOCABULARY = Vocabulary(
    first=_TEKKEN_TOKENS,
    names={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    stop=("</s>",),
    adds_bos=True,
    multiple=1,
)
MISTRAL3_VOCABULARY = attrs.evolve(
    PIXTRAL_VOCABULARY,
    first=(
        *_TEKKEN_TOKENS,
        "[PREFIX]",
        "[MIDDLE]",
        "[SUFFIX]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
    ),
    tokenizer_class="LlamaTokenizerFast",
)

_DEEPSEEK_BOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
_DEEPSEEK_EOS = "<\uff5cend\u2581of\u2581sentence\uff5c>"
_DEEPSEEK_PAD = "<\uff5c\u2581pad\u2581\uff5c>"
DEEPSEEK_VOCABULARY = Vocabulary(
    first=(_DEEPSEEK_BOS, _DEEPSEEK_EOS, _DEEPSEEK_PAD),
    last=(
        "<image>",
        "<|ref|>",
        "<|/ref|>",
        "<|det|>",
        "<|/det|>",
        "<|grounding|>",
        "<|User|>",
        "<|Assistant|>",
    ),
    names={
        "bos_token": _DEEPSEEK_BOS,
        "eos_token": _DEEPSEEK_EOS,
        "pad_token": _DEEPSEEK_PAD,
    },
    stop=(_DEEPSEEK_EOS,),
    tokenizer_class="LlamaTokenizerFast",
    adds_bos=True,
    extra={"add_bos_token": True, "add_eos_token": False, "legacy": True, "unk_token": None},
)

# ---------------------------------------------------------------------------------------------
# Pieces of config.json and preprocessor_config.json that several families share

_CLIP_STATS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_HALF_STATS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_DO_ALL = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "rescale_factor": 1 / 255,
}
_TEXT = {
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB_SIZE,
}
_VIT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 8,
}
_QWEN_VIT = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_QWEN_IDS = {
    "image_token_id": Token("<|image_pad|>"),
    "video_token_id": Token("<|video_pad|>"),
    "vision_start_token_id": Token("<|vision_start|>"),
    "vision_end_token_id": Token("<|vision_end|>"),
}
# An image becomes 4 to 36 tokens of 16 x 16 pixels.
_QWEN_PATCHES = {"merge_size": 2, "patch_size": 8, "temporal_patch_size": 2}
_QWEN2_PREPROCESSOR = {
    **_DO_ALL,
    **_CLIP_STATS,
    **_QWEN_PATCHES,
    "image_processor_type": "Qwen2VLImageProcessor",
    "max_pixels": 36 * 256,
    "min_pixels": 4 * 256,
}
_QWEN3_PREPROCESSOR = {
    **_DO_ALL,
    **_HALF_STATS,
    **_QWEN_PATCHES,
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
    "size": {"longest_edge": 36 * 256, "shortest_edge": 4 * 256},
}
_QWEN3_VIDEO_PREPROCESSOR = {
    **_QWEN3_PREPROCESSOR,
    "image_processor_type": None,
    "size": {"longest_edge": 4 * 36 * 256, "shortest_edge": 4 * 256},
    "video_processor_type": "Qwen3VLVideoProcessor",
}
_QWEN3_TEXT = {
    **_TEXT,
    "attention_bias": False,
    "head_dim": 32,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
    "rope_theta": 5000000,
}
_QWEN3_VISION = {
    **_QWEN_VIT,
    "deepstack_visual_indexes": [0, 1],
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "intermediate_size": 64,
    "num_position_embeddings": 16,
    "out_hidden_size": 64,
}
_PIXTRAL_VISION = {
    **_VIT,
    "head_dim": 16,
    "hidden_act": "silu",
    "model_type": "pixtral",
    "num_channels": 3,
    "rope_theta": 10000.0,
}
_PIXTRAL_PROCESSOR = {
    "image_break_token": "[IMG_BREAK]",
    "image_end_token": "[IMG_END]",
    "image_token": "[IMG]",
    "patch_size": 8,
    "processor_class": "PixtralProcessor",
}
_PIXTRAL_PREPROCESSOR = {
    **_DO_ALL,
    **_CLIP_STATS,
    "image_processor_type": "PixtralImageProcessor",
    "patch_size": {"height": 8, "width": 8},
    "processor_class": "PixtralProcessor",
    "resample": 3,
}
_SPLIT_PREPROCESSOR = {
    **_DO_ALL,
    **_HALF_STATS,
    "do_image_splitting": True,
    "do_pad": True,
    "resample": 1,
}
_ASPECT_RATIOS = [[w, h] for w in range(1, 5) for h in range(1, 5) if w * h <= 4]
_DEEPSEEK_SIZES = [[32, 32], [32, 64], [64, 32], [64, 64]]

# ---------------------------------------------------------------------------------------------

FAMILIES: Mapping[str, Family] = {
    "qwen2_vl": Family(
        vocabulary=QWEN_VOCABULARY,
        template=QWEN2_TEMPLATE,
        files={
            "config.json": {
                **_TEXT,
                **_QWEN_IDS,
                "architectures": ["Qwen2VLForConditionalGeneration"],
                "bos_token_id": Token("<|endoftext|>"),
                "eos_token_id": Token("<|im_end|>"),
                "model_type": "qwen2_vl",
                "rope_scaling": {"mrope_section": [2, 3, 3], "type": "mrope"},
                "rope_theta": 1000000.0,
                "tie_word_embeddings": False,
                "vision_config": {
                    **_QWEN_VIT,
                    "embed_dim": 32,
                    "hidden_size": 64,
                    "in_chans": 3,
                    "mlp_ratio": 2,
                    "spatial_patch_size": 8,
                },
                "vision_token_id": Token("<|vision_pad|>"),
            },
            "preprocessor_config.json": {
                **_QWEN2_PREPROCESSOR,
                "processor_class": "Qwen2VLProcessor",
            },
        },
    ),
    "qwen2_5_vl": Family(
        vocabulary=QWEN_VOCABULARY,
        template=QWEN2_TEMPLATE,
        files={
            "config.json": {
                **_TEXT,
                **_QWEN_IDS,
                "architectures": ["Qwen2_5_VLForConditionalGeneration"],
                "bos_token_id": Token("<|endoftext|>"),
                "eos_token_id": Token("<|im_end|>"),
                "model_type": "qwen2_5_vl",
                "rope_scaling": {"mrope_section": [2, 3, 3], "type": "mrope"},
                "rope_theta": 1000000.0,
                "tie_word_embeddings": True,
                "vision_config": {
                    **_QWEN_VIT,
                    "fullatt_block_indexes": [1],
                    "hidden_act": "silu",
                    "hidden_size": 32,
                    "in_chans": 3,
                    "intermediate_size": 64,
                    "out_hidden_size": 64,
                    "spatial_patch_size": 8,
                    "tokens_per_second": 2,
                    "window_size": 32,
                },
                "vision_token_id": Token("<|vision_pad|>"),
            },
            "preprocessor_config.json": {
                **_QWEN2_PREPROCESSOR,
                "processor_class": "Qwen2_5_VLProcessor",
            },
        },
    ),
    "qwen3_vl": Family(
        vocabulary=QWEN_VOCABULARY,
        template=QWEN3_TEMPLATE,
        files={
            "config.json": {
                **_QWEN_IDS,
                "architectures": ["Qwen3VLForConditionalGeneration"],
                "model_type": "qwen3_vl",
                "text_config": {
                    **_QWEN3_TEXT,
                    "model_type": "qwen3_vl_text",
                    "tie_word_embeddings": True,
                },
                "tie_word_embeddings": True,
                "vision_config": {**_QWEN3_VISION, "model_type": "qwen3_vl"},
            },
            "preprocessor_config.json": _QWEN3_PREPROCESSOR,
            "video_preprocessor_config.json": _QWEN3_VIDEO_PREPROCESSOR,
        },
    ),
    "qwen3_vl_moe": Family(
        vocabulary=QWEN_VOCABULARY,
        template=QWEN3_TEMPLATE,
        files={
            "config.json": {
                **_QWEN_IDS,
                "architectures": ["Qwen3VLMoeForConditionalGeneration"],
                "model_type": "qwen3_vl_moe",
                "text_config": {
                    **_QWEN3_TEXT,
                    "decoder_sparse_step": 1,
                    "mlp_only_layers": [],
                    "model_type": "qwen3_vl_moe_text",
                    "moe_intermediate_size": 32,
                    "norm_topk_prob": True,
                    "num_experts": 4,
                    "num_experts_per_tok": 2,
                },
                "tie_word_embeddings": False,
                "vision_config": {
                    **_QWEN3_VISION,
                    "deepstack_visual_indexes": [0],
                    "model_type": "qwen3_vl_moe",
                },
            },
            "preprocessor_config.json": _QWEN3_PREPROCESSOR,
            "video_preprocessor_config.json": _QWEN3_VIDEO_PREPROCESSOR,
        },
    ),
    "llava": Family(
        vocabulary=LLAVA_VOCABULARY,
        template=LLAVA_TEMPLATE,
        template_in_tokenizer=False,
        files={
            "config.json": {
                "architectures": ["LlavaForConditionalGeneration"],
                "ignore_index": -100,
                "image_token_index": Token("<image>"),
                "model_type": "llava",
                "pad_token_id": Token("<pad>"),
                "projector_hidden_act": "gelu",
                "text_config": {**_TEXT, "model_type": "llama"},
                "tie_word_embeddings": False,
                "vision_config": {
                    **_VIT,
                    "image_size": 32,
                    "model_type": "clip_vision_model",
                    "projection_dim": 32,
                    "vocab_size": 320,
                },
                "vision_feature_layer": -2,
                "vision_feature_select_strategy": "default",
                "vocab_size": VOCAB_SIZE,
            },
            "preprocessor_config.json": {
                **_DO_ALL,
                **_CLIP_STATS,
                "crop_size": {"height": 32, "width": 32},
                "do_center_crop": True,
                "image_processor_type": "CLIPImageProcessor",
                "processor_class": "LlavaProcessor",
                "resample": 3,
                "size": {"shortest_edge": 32},
            },
            "processor_config.json": {
                "image_token": "<image>",
                "num_additional_image_tokens": 1,
                "patch_size": 8,
                "processor_class": "LlavaProcessor",
                "vision_feature_select_strategy": "default",
            },
        },
    ),
    "pixtral": Family(
        vocabulary=PIXTRAL_VOCABULARY,
        template=PIXTRAL_TEMPLATE,
        template_in_tokenizer=False,
        files={
            "config.json": {
                "architectures": ["LlavaForConditionalGeneration"],
                "ignore_index": -100,
                "image_seq_length": 1,
                "image_token_index": Token("[IMG]"),
                "model_type": "pixtral",
                "projector_hidden_act": "gelu",
                "text_config": {
                    **_TEXT,
                    "head_dim": 8,
                    "model_type": "mistral",
                    "rope_theta": 1000000000.0,
                    "sliding_window": None,
                },
                "vision_config": {**_PIXTRAL_VISION, "image_size": 56},
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "full",
            },
            "preprocessor_config.json": {**_PIXTRAL_PREPROCESSOR, "size": {"longest_edge": 56}},
            "processor_config.json": _PIXTRAL_PROCESSOR,
        },
    ),
    "mistral3": Family(
        vocabulary=MISTRAL3_VOCABULARY,
        template=MISTRAL3_TEMPLATE,
        template_in_tokenizer=False,
        files={
            "config.json": {
                "architectures": ["Mistral3ForConditionalGeneration"],
                "image_token_index": Token("[IMG]"),
                "model_type": "mistral3",
                "multimodal_projector_bias": False,
                "projector_hidden_act": "gelu",
                "spatial_merge_size": 2,
                "text_config": {
                    **_TEXT,
                    "head_dim": 8,
                    "model_type": "mistral",
                    "rope_theta": 1000000000.0,
                    "sliding_window": None,
                },
                "vision_config": {**_PIXTRAL_VISION, "image_size": 64},
                "vision_feature_layer": -1,
            },
            "preprocessor_config.json": {**_PIXTRAL_PREPROCESSOR, "size": {"longest_edge": 64}},
            "processor_config.json": {**_PIXTRAL_PROCESSOR, "spatial_merge_size": 2},
        },
    ),
    "mllama": Family(
        vocabulary=MLLAMA_VOCABULARY,
        template=LLAMA_TEMPLATE,
        files={
            "config.json": {
                "architectures": ["MllamaForConditionalGeneration"],
                "image_token_index": Token("<|image|>"),
                "model_type": "mllama",
                "text_config": {
                    **_TEXT,
                    "bos_token_id": Token("<|begin_of_text|>"),
                    "cross_attention_layers": [1],
                    "eos_token_id": [
                        Token("<|end_of_text|>"),
                        Token("<|eom_id|>"),
                        Token("<|eot_id|>"),
                    ],
                    "model_type": "mllama_text_model",
                    "num_hidden_layers": 3,
                    "pad_token_id": Token("<|finetune_right_pad_id|>"),
                    "rope_scaling": {
                        "factor": 8.0,
                        "high_freq_factor": 4.0,
                        "low_freq_factor": 1.0,
                        "original_max_position_embeddings": 256,
                        "rope_type": "llama3",
                    },
                    "rope_theta": 500000.0,
                    "tie_word_embeddings": False,
                },
                "vision_config": {
                    **_VIT,
                    "attention_heads": 2,
                    "hidden_act": "gelu",
                    "image_size": 32,
                    "intermediate_layers_indices": [0, 1],
                    "max_num_tiles": 4,
                    "model_type": "mllama_vision_model",
                    "norm_eps": 1e-5,
                    "num_channels": 3,
                    "num_global_layers": 1,
                    "supported_aspect_ratios": _ASPECT_RATIOS,
                    "vision_output_dim": 96,
                },
            },
            "preprocessor_config.json": {
                **_DO_ALL,
                **_CLIP_STATS,
                "do_pad": True,
                "image_processor_type": "MllamaImageProcessor",
                "max_image_tiles": 4,
                "resample": 2,
                "size": {"height": 32, "width": 32},
            },
        },
    ),
    "deepseek_vl_v2": Family(
        vocabulary=DEEPSEEK_VOCABULARY,
        template=None,
        files={
            "config.json": {
                "architectures": ["DeepseekVLV2ForCausalLM"],
                "candidate_resolutions": _DEEPSEEK_SIZES,
                "global_view_pos": "head",
                "language_config": {
                    **_TEXT,
                    "architectures": ["DeepseekV2ForCausalLM"],
                    "bos_token_id": Token(_DEEPSEEK_BOS),
                    "eos_token_id": Token(_DEEPSEEK_EOS),
                    "first_k_dense_replace": 1,
                    "kv_lora_rank": 32,
                    "model_type": "deepseek_v2",
                    "moe_intermediate_size": 32,
                    "n_group": 1,
                    "n_routed_experts": 4,
                    "n_shared_experts": 2,
                    "num_experts_per_tok": 2,
                    "num_key_value_heads": 4,
                    "q_lora_rank": None,
                    "qk_nope_head_dim": 16,
                    "qk_rope_head_dim": 8,
                    "topk_group": 1,
                    "topk_method": "greedy",
                    "use_mla": True,
                    "v_head_dim": 16,
                },
                "model_type": "deepseek_vl_v2",
                "projector_config": {
                    "input_dim": 32,
                    "model_type": "mlp_projector",
                    "n_embed": 64,
                },
                "tile_tag": "2D",
                "vision_config": {
                    "image_size": 32,
                    "intermediate_size": 64,
                    "layers": 2,
                    "mlp_ratio": 2.0,
                    "model_name": "siglip_so400m_patch14_384",
                    "model_type": "vision",
                    "num_attention_heads": 2,
                    "patch_size": 8,
                    "width": 32,
                },
            },
            "processor_config.json": {
                **_HALF_STATS,
                "add_special_token": False,
                "candidate_resolutions": _DEEPSEEK_SIZES,
                "downsample_ratio": 2,
                "ignore_id": -100,
                "image_token": "<image>",
                "mask_prompt": False,
                "normalize": True,
                "pad_token": _DEEPSEEK_PAD,
                "patch_size": 8,
                "processor_class": "DeepseekVLV2Processor",
                "sft_format": "deepseek",
            },
        },
    ),
    "idefics3": Family(
        vocabulary=IDEFICS3_VOCABULARY,
        template=IDEFICS3_TEMPLATE,
        files={
            "config.json": {
                "architectures": ["Idefics3ForConditionalGeneration"],
                "image_token_id": Token("<image>"),
                "model_type": "idefics3",
                "scale_factor": 2,
                "text_config": {
                    **_TEXT,
                    "bos_token_id": Token("<|begin_of_text|>"),
                    "eos_token_id": Token("<|end_of_text|>"),
                    "model_type": "llama",
                    "pad_token_id": Token("<|reserved_special_token_0|>"),
                    "rope_theta": 500000.0,
                },
                "tie_word_embeddings": False,
                "vision_config": {**_VIT, "image_size": 32, "model_type": "idefics3"},
                "vocab_size": VOCAB_SIZE,
            },
            "preprocessor_config.json": {
                **_SPLIT_PREPROCESSOR,
                "image_processor_type": "Idefics3ImageProcessor",
                "max_image_size": {"longest_edge": 32},
                "processor_class": "Idefics3Processor",
                "size": {"longest_edge": 64},
            },
            "processor_config.json": {"image_seq_len": 4, "processor_class": "Idefics3Processor"},
        },
    ),
    "smolvlm": Family(
        vocabulary=SMOLVLM_VOCABULARY,
        template=SMOLVLM_TEMPLATE,
        files={
            "config.json": {
                "architectures": ["SmolVLMForConditionalGeneration"],
                "image_token_id": Token("<image>"),
                "model_type": "smolvlm",
                "pad_token_id": Token("<|im_end|>"),
                "scale_factor": 4,
                "text_config": {
                    **_TEXT,
                    "head_dim": 16,
                    "model_type": "llama",
                    "pad_token_id": Token("<|im_end|>"),
                    "rope_theta": 100000,
                },
                "tie_word_embeddings": False,
                "vision_config": {**_VIT, "image_size": 64, "model_type": "smolvlm_vision"},
                "vocab_size": VOCAB_SIZE,
            },
            "preprocessor_config.json": {
                **_SPLIT_PREPROCESSOR,
                "image_processor_type": "SmolVLMImageProcessor",
                "max_image_size": {"longest_edge": 64},
                "processor_class": "SmolVLMProcessor",
                "size": {"longest_edge": 128},
            },
            "processor_config.json": {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"},
        },
    ),
}


def build_checkpoint(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a complete tiny checkpoint of one family; the same call writes the same bytes.

    Args:
        family: A key of `FAMILIES`, which is also the model_type.
        folder: Where to write; made if missing. Files of the same names are replaced.
        seed: Decides the weights (float32); tokenizer and configuration do not depend on it.

    Returns:
        `folder`, ready for `mlx_vlm.load(str(folder))`.

    Raises:
        KeyError: No such family.
    """
    spec = FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _make_tokenizer(spec.vocabulary)
    files = {name: _with_ids(content, spec, tokenizer) for name, content in spec.files.items()}
    files["config.json"] |= {"torch_dtype": "float32", "transformers_version": "4.57.1"}
    files["generation_config.json"] = _generation_config(spec.vocabulary, tokenizer)
    files["tokenizer_config.json"] = _tokenizer_config(spec, tokenizer)
    if spec.template is not None:
        files["chat_template.json"] = {"chat_template": spec.template}
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = _random_weights(_make_model(files["config.json"]), seed)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def _make_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Train byte-pair merges on `CORPUS` and number the tokens as the family does."""
    split: pre_tokenizers.PreTokenizer
    if vocabulary.sentencepiece:
        base = [f"<0x{byte:02X}>" for byte in range(256)]
        split = pre_tokenizers.Metaspace()
    else:
        base = sorted(pre_tokenizers.ByteLevel.alphabet())
        split = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(vocabulary.words), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    letters, merges = _learn_merges(split, () if vocabulary.sentencepiece else base)
    pieces = [letter for letter in letters if letter not in base]
    pieces += ["".join(pair) for pair in merges]
    ordered = [*vocabulary.first, *base, *pieces, *vocabulary.last]
    ids = {token: index for index, token in enumerate(dict.fromkeys(ordered))}

    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=merges,
            unk_token="<unk>" if vocabulary.sentencepiece else None,
            fuse_unk=vocabulary.sentencepiece,
            byte_fallback=vocabulary.sentencepiece,
        )
    )
    if vocabulary.sentencepiece:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    else:
        tokenizer.pre_tokenizer = split
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = (*vocabulary.first, *vocabulary.last)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    if vocabulary.adds_bos:
        bos = vocabulary.names["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, ids[bos])]
        )
    return tokenizer


def _learn_merges(
    split: pre_tokenizers.PreTokenizer, alphabet: Sequence[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the single letters and the `N_MERGES` most frequent merges of `CORPUS`."""

    def train(size: int) -> dict[str, Any]:
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = split
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), show_progress=False)
        learner.train_from_iterator(CORPUS, trainer)
        model: dict[str, Any] = json.loads(learner.to_str())["model"]
        return model

    letters = sorted(train(0)["vocab"])
    model = train(len(letters) + N_MERGES)
    return letters, [(left, right) for left, right in model["merges"]]


def _with_ids(content: Any, spec: Family, tokenizer: Tokenizer) -> Any:
    """Replace every `Token` in a JSON tree by its number, and copy the rest."""
    if content is VOCAB_SIZE:
        return spec.vocabulary.model_size(tokenizer.get_vocab_size())
    if isinstance(content, Token):
        return tokenizer.get_vocab()[content]
    if isinstance(content, Mapping):
        return {key: _with_ids(value, spec, tokenizer) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_ids(value, spec, tokenizer) for value in content]
    return content


def _generation_config(vocabulary: Vocabulary, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return generation_config.json: the ids that start, stop and pad a sequence."""
    ids = tokenizer.get_vocab()
    named = {name: ids[token] for name, token in vocabulary.names.items()}
    stop = [ids[token] for token in vocabulary.stop]
    content = {
        "_from_model_config": True,
        "bos_token_id": named.get("bos_token"),
        "eos_token_id": stop if len(stop) > 1 else stop[0],
        "pad_token_id": named["pad_token"],
    }
    return {key: value for key, value in content.items() if value is not None}


def _tokenizer_config(spec: Family, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return tokenizer_config.json as transformers 4.x wrote it."""
    vocabulary, ids = spec.vocabulary, tokenizer.get_vocab()
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {
        str(ids[token]): {"content": token, **flags, "special": True} for token in (*vocabulary.first, *vocabulary.last)
    }
    content = {
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": vocabulary.tokenizer_class,
        **vocabulary.names,
        **vocabulary.extra,
    }
    if spec.template is not None and spec.template_in_tokenizer:
        content["chat_template"] = spec.template
    return content


def _make_model(config: Mapping[str, Any]) -> nn.Module:
    """Make the mlx-vlm model that `mlx_vlm.load` would make for this config.json."""
    settings: dict[str, Any] = json.loads(json.dumps(config))  # from_dict rewrites its argument
    package, _ = get_model_and_args(settings)
    for section in ("text_config", "vision_config", "audio_config"):
        settings.setdefault(section, {})
    model_config = package.ModelConfig.from_dict(settings)
    sections = ["text", "vision", "projector"]
    model_config = update_module_configs(model_config, package, settings, sections)
    model: nn.Module = package.Model(model_config)
    return model


def _random_weights(model: nn.Module, seed: int) -> dict[str, mx.array]:
    """Return the model's parameters: norms as made, gates open, everything else normal."""
    kept = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm))
        for name in module.parameters()
    }
    generator = np.random.default_rng(seed)
    weights: dict[str, mx.array] = {}
    for name, value in sorted(tree_flatten(model.parameters())):
        if name in kept:
            weights[name] = value.astype(mx.float32)
        elif value.size == 1:
            weights[name] = mx.full(value.shape, GATE, dtype=mx.float32)
        else:
            noise = generator.standard_normal(value.shape, dtype=np.float32)
            weights[name] = mx.array(noise * np.float32(WEIGHT_STD))
    return weights
