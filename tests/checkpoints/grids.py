"""The checkpoints of families that read patches and a grid besides Qwen2-VL to Qwen3-VL, as data.

They are written under published names, so that transformers reads them too.
"""

import re
from collections.abc import Mapping

from . import classics
from .layout import VOCAB_SIZE, Family, Token, Vocabulary, Weights
from .pieces import CLIP_STATS, publishing

# ---------------------------------------------------------------------------------------------
# Chat templates: in the style of the published ones, only as long as a test needs.

_QWEN_PARTS = (
    "{% set content = namespace(text='') %}"
    "{% if message['content'] is string %}{% set content.text = message['content'] %}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set piece = '<|vision_start|><|image_pad|><|vision_end|>' %}"
    "{% else %}{% set piece = part['text'] %}{% endif %}"
    "{% set content.text = content.text + piece %}"
    "{% endfor %}{% endif %}"
)
# Trims what turns hold, and writes an (empty) think block in the answers behind the last question only.
QWEN3_5_TEMPLATE = (
    "{% set last = namespace(query=-1) %}"
    "{% for message in messages if message['role'] == 'user' %}{% set last.query = loop.length %}{% endfor %}"
    "{% set seen = namespace(queries=0) %}"
    "{% for message in messages %}" + _QWEN_PARTS + "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'user' %}{% set seen.queries = seen.queries + 1 %}{% endif %}"
    "{% if message['role'] == 'assistant' and seen.queries == last.query %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ content.text | trim + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
# No end-of-turn token: the next role, or the end of the text, ends an answer. An answer must be a string.
GLM4V_TEMPLATE = (
    "[gMASK]<sop>"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['role'] != 'user' or message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif part['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# ---------------------------------------------------------------------------------------------
# Vocabularies

QWEN3_5_VOCABULARY = Vocabulary(
    last=(
        *classics.QWEN_VOCABULARY.last,
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
        "<think>",
        "</think>",
    ),
    names=classics.QWEN_VOCABULARY.names,
    stop=classics.QWEN_VOCABULARY.stop,
    tokenizer_class="Qwen2Tokenizer",
    # Combining marks belong to words.
    words=(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    extra=classics.QWEN_VOCABULARY.extra,
)
GLM4V_VOCABULARY = Vocabulary(
    last=(
        "<|endoftext|>",
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "<sop>",
        "<eop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
        "<|image|>",
        "<|video|>",
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<|begin_of_box|>",
        "<|end_of_box|>",
    ),
    names={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    stop=("<|endoftext|>", "<|user|>", "<|observation|>"),
    extra={"padding_side": "left"},
)

# ---------------------------------------------------------------------------------------------
# Weights

_FROM_ZERO = re.compile(r"(input_layernorm|post_attention_layernorm|[qk]_norm|language_model\.norm)\.weight$")
_publish = publishing(
    (r"^vision_tower\.", "model.visual."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    channels_first="",
)


def _publish_qwen3_5(weights: Weights) -> Weights:
    """As `_publish`; the norms of the language model are published as what they add to one."""
    return {name: value - 1 if _FROM_ZERO.search(name) else value for name, value in _publish(weights).items()}


# ---------------------------------------------------------------------------------------------

_QWEN3 = classics.FAMILIES["qwen3_vl"].files

FAMILIES: Mapping[str, Family] = {
    "qwen3_5": Family(
        vocabulary=QWEN3_5_VOCABULARY,
        template=QWEN3_5_TEMPLATE,
        publish=_publish_qwen3_5,
        files={
            "config.json": {
                "architectures": ["Qwen3_5ForConditionalGeneration"],
                "image_token_id": Token("<|image_pad|>"),
                "model_type": "qwen3_5",
                "text_config": {
                    "attention_bias": False,
                    "attn_output_gate": True,
                    "eos_token_id": Token("<|endoftext|>"),
                    "full_attention_interval": 4,
                    "head_dim": 64,
                    "hidden_act": "silu",
                    "hidden_size": 64,
                    "intermediate_size": 128,
                    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
                    "linear_conv_kernel_dim": 4,
                    "linear_key_head_dim": 16,
                    "linear_num_key_heads": 2,
                    "linear_num_value_heads": 4,
                    "linear_value_head_dim": 16,
                    "mamba_ssm_dtype": "float32",
                    "max_position_embeddings": 2048,
                    "model_type": "qwen3_5_text",
                    "num_attention_heads": 2,
                    "num_hidden_layers": 4,
                    "num_key_value_heads": 1,
                    "rms_norm_eps": 1e-6,
                    "rope_parameters": {
                        "mrope_interleaved": True,
                        "mrope_section": [3, 3, 2],
                        "partial_rotary_factor": 0.25,
                        "rope_theta": 10000000,
                        "rope_type": "default",
                    },
                    "vocab_size": VOCAB_SIZE,
                },
                "tie_word_embeddings": False,
                "video_token_id": Token("<|video_pad|>"),
                "vision_config": {
                    "deepstack_visual_indexes": [],
                    "depth": 2,
                    "hidden_act": "gelu_pytorch_tanh",
                    "hidden_size": 32,
                    "in_channels": 3,
                    "intermediate_size": 64,
                    "model_type": "qwen3_5",
                    "num_heads": 2,
                    "num_position_embeddings": 16,
                    "out_hidden_size": 64,
                    "patch_size": 8,
                    "spatial_merge_size": 2,
                    "temporal_patch_size": 2,
                },
                "vision_end_token_id": Token("<|vision_end|>"),
                "vision_start_token_id": Token("<|vision_start|>"),
            },
            "preprocessor_config.json": _QWEN3["preprocessor_config.json"],
            "video_preprocessor_config.json": _QWEN3["video_preprocessor_config.json"],
        },
    ),
    "glm4v": Family(
        vocabulary=GLM4V_VOCABULARY,
        template=GLM4V_TEMPLATE,
        publish=_publish,
        files={
            "config.json": {
                "architectures": ["Glm4vForConditionalGeneration"],
                "image_end_token_id": Token("<|end_of_image|>"),
                "image_start_token_id": Token("<|begin_of_image|>"),
                "image_token_id": Token("<|image|>"),
                "model_type": "glm4v",
                "text_config": {
                    "attention_bias": True,
                    "attention_dropout": 0.0,
                    "eos_token_id": [Token("<|endoftext|>"), Token("<|user|>"), Token("<|observation|>")],
                    "hidden_act": "silu",
                    "hidden_size": 64,
                    "intermediate_size": 96,
                    "max_position_embeddings": 2048,
                    "model_type": "glm4v_text",
                    "num_attention_heads": 4,
                    "num_hidden_layers": 2,
                    "num_key_value_heads": 2,
                    "pad_token_id": Token("<|endoftext|>"),
                    "partial_rotary_factor": 0.5,
                    "rms_norm_eps": 1e-5,
                    "rope_scaling": {"mrope_section": [2, 1, 1], "rope_type": "default"},
                    "rope_theta": 10000.0,
                    "vocab_size": VOCAB_SIZE,
                },
                "tie_word_embeddings": False,
                "video_end_token_id": Token("<|end_of_video|>"),
                "video_start_token_id": Token("<|begin_of_video|>"),
                "video_token_id": Token("<|video|>"),
                "vision_config": {
                    "attention_bias": False,
                    "attention_dropout": 0.0,
                    "depth": 2,
                    "hidden_act": "silu",
                    "hidden_size": 32,
                    "image_size": 32,
                    "in_channels": 3,
                    "intermediate_size": 48,
                    "model_type": "glm4v",
                    "num_heads": 2,
                    "out_hidden_size": 64,
                    "patch_size": 8,
                    "rms_norm_eps": 1e-5,
                    "spatial_merge_size": 2,
                    "temporal_patch_size": 2,
                },
                # mlx-vlm reads these two names only; the published ids are its defaults.
                "vision_end_token_id": Token("<|end_of_image|>"),
                "vision_start_token_id": Token("<|begin_of_image|>"),
            },
            "preprocessor_config.json": {
                **CLIP_STATS,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "image_processor_type": "Glm4vImageProcessor",
                "merge_size": 2,
                "patch_size": 8,
                "processor_class": "Glm4vProcessor",
                "rescale_factor": 1 / 255,
                # Of both frames that a still image is taken for.
                "size": {"longest_edge": 72 * 256, "shortest_edge": 8 * 256},
                "temporal_patch_size": 2,
            },
            "video_preprocessor_config.json": {
                **CLIP_STATS,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "merge_size": 2,
                "patch_size": 8,
                "processor_class": "Glm4vProcessor",
                "rescale_factor": 1 / 255,
                "size": {"longest_edge": 4 * 72 * 256, "shortest_edge": 8 * 256},
                "temporal_patch_size": 2,
                "video_processor_type": "Glm4vVideoProcessor",
            },
        },
    ),
}
