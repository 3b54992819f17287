"""The checkpoints of the families that most people train, as data."""

import re
from collections.abc import Mapping

import attrs

from .layout import GPT2_WORDS, VOCAB_SIZE, Family, Token, Vocabulary, Weights
from .pieces import CLIP_STATS, DO_ALL, HALF_STATS, TEXT, VIT

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
    **DO_ALL,
    **CLIP_STATS,
    **_QWEN_PATCHES,
    "image_processor_type": "Qwen2VLImageProcessor",
    "max_pixels": 36 * 256,
    "min_pixels": 4 * 256,
}
_QWEN3_PREPROCESSOR = {
    **DO_ALL,
    **HALF_STATS,
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
    **TEXT,
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
    **VIT,
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
    **DO_ALL,
    **CLIP_STATS,
    "image_processor_type": "PixtralImageProcessor",
    "patch_size": {"height": 8, "width": 8},
    "processor_class": "PixtralProcessor",
    "resample": 3,
}
_SPLIT_PREPROCESSOR = {
    **DO_ALL,
    **HALF_STATS,
    "do_image_splitting": True,
    "do_pad": True,
    "resample": 1,
}
_ASPECT_RATIOS = [[w, h] for w in range(1, 5) for h in range(1, 5) if w * h <= 4]
_DEEPSEEK_SIZES = [[32, 32], [32, 64], [64, 32], [64, 64]]

# ---------------------------------------------------------------------------------------------
# Weights

_DEEPSEEK_NAMES = (
    (r"^language_model\.", "language."),
    (r"^vision\.vision_tower\.", "vision."),
    (r"^view_separator$", "view_seperator"),
)


def _publish_deepseek(weights: Weights) -> Weights:
    """Give parameters their published names, convolutions the layout of torch, and write every expert by itself."""
    published: Weights = {}
    for name, value in weights.items():
        for pattern, replacement in _DEEPSEEK_NAMES:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        if ".switch_mlp." in name:
            published |= {name.replace("switch_mlp", f"experts.{index}"): expert for index, expert in enumerate(value)}
        else:
            published[name] = value.moveaxis(-1, 1) if name.endswith("patch_embed.proj.weight") else value
    return published


# ---------------------------------------------------------------------------------------------

FAMILIES: Mapping[str, Family] = {
    "qwen2_vl": Family(
        vocabulary=QWEN_VOCABULARY,
        template=QWEN2_TEMPLATE,
        files={
            "config.json": {
                **TEXT,
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
                **TEXT,
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
                    # Not half the hidden size: then nobody could tell whether the experts are published transposed.
                    "moe_intermediate_size": 96,
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
                "text_config": {**TEXT, "model_type": "llama"},
                "tie_word_embeddings": False,
                "vision_config": {
                    **VIT,
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
                **DO_ALL,
                **CLIP_STATS,
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
                    **TEXT,
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
                    **TEXT,
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
                    **TEXT,
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
                    **VIT,
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
                **DO_ALL,
                **CLIP_STATS,
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
        publish=_publish_deepseek,
        files={
            "config.json": {
                "architectures": ["DeepseekVLV2ForCausalLM"],
                "candidate_resolutions": _DEEPSEEK_SIZES,
                "global_view_pos": "head",
                "language_config": {
                    **TEXT,
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
                **HALF_STATS,
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
                    **TEXT,
                    "bos_token_id": Token("<|begin_of_text|>"),
                    "eos_token_id": Token("<|end_of_text|>"),
                    "model_type": "llama",
                    "pad_token_id": Token("<|reserved_special_token_0|>"),
                    "rope_theta": 500000.0,
                },
                "tie_word_embeddings": False,
                "vision_config": {**VIT, "image_size": 32, "model_type": "idefics3"},
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
                    **TEXT,
                    "head_dim": 16,
                    "model_type": "llama",
                    "pad_token_id": Token("<|im_end|>"),
                    "rope_theta": 100000,
                },
                "tie_word_embeddings": False,
                "vision_config": {**VIT, "image_size": 64, "model_type": "smolvlm_vision"},
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
