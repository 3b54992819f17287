"""The checkpoints of Gemma's multimodal families, as data, under published names."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from .layout import VOCAB_SIZE, Family, Token, Vocabulary, Weights

# ---------------------------------------------------------------------------------------------
# Chat templates: in the style of the published ones, only as long as a test needs.

# The assistant is called model, texts are trimmed, and a system prompt opens the first turn.
GEMMA3_TEMPLATE = (
    "{{ bos_token }}"
    "{% set has_system = messages[0]['role'] == 'system' %}"
    "{% for message in messages if message['role'] != 'system' %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Turns of user and assistant must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}"
    "{% if loop.first and has_system %}"
    "{% set system = messages[0]['content'] %}"
    "{{ (system if system is string else system[0]['text']) + '\n\n' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# ---------------------------------------------------------------------------------------------
# Vocabularies

_NAMES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
_GEMMA3_IMAGE = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
GEMMA3_VOCABULARY = Vocabulary(
    first=("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"),
    last=("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    names=_NAMES,
    stop=("<eos>", "<end_of_turn>"),
    tokenizer_class="GemmaTokenizer",
    adds_bos=True,
    sentencepiece=True,
    leading_space=False,
    line_breaks=4,
    extra={
        **_GEMMA3_IMAGE,
        "add_bos_token": True,
        "add_eos_token": False,
        "extra_special_tokens": _GEMMA3_IMAGE,
        "processor_class": "Gemma3Processor",
    },
)

PALIGEMMA_VOCABULARY = Vocabulary(
    first=("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
    last=("<image>",),
    names=_NAMES,
    stop=("<eos>",),
    tokenizer_class="GemmaTokenizer",
    adds_bos=True,
    sentencepiece=True,
    leading_space=False,
    line_breaks=4,
    extra={
        "add_bos_token": True,
        "add_eos_token": False,
        "additional_special_tokens": ["<image>"],
        "processor_class": "PaliGemmaProcessor",
    },
)

# ---------------------------------------------------------------------------------------------
# Pieces of config.json and preprocessor_config.json that several families share

_HALF_STATS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_DO_ALL = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "rescale_factor": 1 / 255,
}
# Wide enough for a scale that bfloat16 cannot hold: the root of 96.
_TEXT = {
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 96,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB_SIZE,
}
_SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 8,
    "vision_use_head": False,
}

# ---------------------------------------------------------------------------------------------
# Weights


def _publish(
    *renames: tuple[str, str],
    channels_first: str = r"patch_embedding\.weight$",
    dropped: str = r"^language_model\.lm_head\.",
) -> Callable[[Weights], Weights]:
    """Rename parameters by patterns, in order, give convolutions the layout of torch, leave out a tied head."""

    def publish(weights: Weights) -> Weights:
        published: Weights = {}
        for name, value in weights.items():
            if re.search(dropped, name):
                continue
            if value.ndim > 2 and re.search(channels_first, name):
                value = value.moveaxis(-1, 1)  # noqa: PLW2901
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)  # noqa: PLW2901
            published[name] = value
        return published

    return publish


def _paligemma(text: Mapping[str, Any]) -> Family:
    """Describe a PaliGemma by its language model."""
    return Family(
        vocabulary=PALIGEMMA_VOCABULARY,
        template=None,
        publish=_publish(),
        files={
            "config.json": {
                "architectures": ["PaliGemmaForConditionalGeneration"],
                "bos_token_id": Token("<bos>"),
                "eos_token_id": Token("<eos>"),
                "ignore_index": -100,
                "image_token_index": Token("<image>"),
                "model_type": "paligemma",
                "pad_token_id": Token("<pad>"),
                "projection_dim": 96,
                "text_config": {**text, "num_image_tokens": 16},
                "vision_config": {**_SIGLIP, "image_size": 32, "num_image_tokens": 16, "projection_dim": 96},
            },
            "preprocessor_config.json": {
                **_DO_ALL,
                **_HALF_STATS,
                "image_processor_type": "SiglipImageProcessor",
                "image_seq_length": 16,
                "processor_class": "PaliGemmaProcessor",
                "resample": 3,
                "size": {"height": 32, "width": 32},
            },
        },
    )


# ---------------------------------------------------------------------------------------------

FAMILIES: Mapping[str, Family] = {
    "gemma3": Family(
        vocabulary=GEMMA3_VOCABULARY,
        template=GEMMA3_TEMPLATE,
        publish=_publish(),
        files={
            "config.json": {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "boi_token_index": Token("<start_of_image>"),
                "eoi_token_index": Token("<end_of_image>"),
                "eos_token_id": [Token("<eos>"), Token("<end_of_turn>")],
                "image_token_index": Token("<image_soft_token>"),
                "initializer_range": 0.02,
                "mm_tokens_per_image": 16,
                "model_type": "gemma3",
                "text_config": {
                    **_TEXT,
                    "head_dim": 16,
                    "mm_tokens_per_image": 16,
                    "model_type": "gemma3_text",
                    "num_hidden_layers": 4,
                    "query_pre_attn_scalar": 24,
                    "rope_local_base_freq": 10000.0,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                    "rope_theta": 1000000.0,
                    # Shorter than an image, which a published window is not.
                    "sliding_window": 8,
                    "sliding_window_pattern": 2,
                },
                "vision_config": {**_SIGLIP, "image_size": 64},
            },
            "preprocessor_config.json": {
                **_DO_ALL,
                **_HALF_STATS,
                "do_pan_and_scan": None,
                "image_processor_type": "Gemma3ImageProcessor",
                "image_seq_length": 16,
                "processor_class": "Gemma3Processor",
                "resample": 2,
                "size": {"height": 64, "width": 64},
            },
            "processor_config.json": {"image_seq_length": 16, "processor_class": "Gemma3Processor"},
        },
    ),
    "paligemma": _paligemma(
        {**_TEXT, "head_dim": 24, "model_type": "gemma", "num_hidden_layers": 2, "num_key_value_heads": 1}
    ),
    "paligemma2": _paligemma(
        {
            **_TEXT,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "head_dim": 16,
            "model_type": "gemma2",
            "num_hidden_layers": 4,
            "query_pre_attn_scalar": 24,
            # Shorter than a row, which a published window is not.
            "sliding_window": 8,
        }
    ),
}
