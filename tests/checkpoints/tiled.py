"""The checkpoints of families that cut an image into tiles, or pack its patches, as data.

They are written under published names, so that transformers reads them too.
"""

from collections.abc import Mapping

from .layout import VOCAB_SIZE, Family, Token, Vocabulary, Weights
from .pieces import CLIP_STATS, DO_ALL, HALF_STATS, SIGLIP, TEXT, VIT, publishing

# ---------------------------------------------------------------------------------------------
# Chat templates: in the style of the published ones, only as long as a test needs.

_IMAGES_THEN_TEXT = (
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
)
# The published template ends an answer with "<\\s> ", which is no token, and so does this one.
LLAVA_NEXT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}[INST] "
    + _IMAGES_THEN_TEXT.replace("<image>\n", "{{ '<image>\n' }}")
    + " [/INST]"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '<\\\\s> ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
# Images, then text behind a line break; as published, the generation tags leave the end-of-turn token out.
LLAVA_ONEVISION_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}<video>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ '\n' + part['text'] }}{% endgeneration %}"
    "{% else %}{{ '\n' + part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# No BOS, which the tokenizer adds; no space between the role and an image; content must be a list.
IDEFICS2_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

INTERNVL_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# An answer ends with two tokens, the second of which stops; roles become tokens.
AYA_TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] != 'system' %}"
    "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>You are a helpful assistant.<|END_OF_TURN_TOKEN|>{% endif %}"
    "{% for message in messages %}"
    "<|START_OF_TURN_TOKEN|>{{ message['role'] | replace('user', '<|USER_TOKEN|>')"
    " | replace('assistant', '<|CHATBOT_TOKEN|><|START_RESPONSE|>') | replace('system', '<|SYSTEM_TOKEN|>') }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"
)

LFM2_VL_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

KIMI_VL_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>{% endif %}"
    "{% if message['role'] == 'system' %}<|im_system|>"
    "{% elif message['role'] == 'user' %}<|im_user|>"
    "{% elif message['role'] == 'assistant' %}<|im_assistant|>{% endif %}"
    "{{ message['role'] }}<|im_middle|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|media_start|>image<|media_content|><|media_pad|><|media_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
)

# ---------------------------------------------------------------------------------------------
# Vocabularies

LLAVA_NEXT_VOCABULARY = Vocabulary(
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
        "legacy": True,
        "padding_side": "left",
    },
)
LLAVA_ONEVISION_VOCABULARY = Vocabulary(
    last=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"),
    names={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    stop=("<|im_end|>", "<|endoftext|>"),
    tokenizer_class="Qwen2Tokenizer",
    extra={"add_bos_token": False, "bos_token": None, "unk_token": None},
)
IDEFICS2_VOCABULARY = Vocabulary(
    first=("<unk>", "<s>", "</s>"),
    last=("<fake_token_around_image>", "<image>", "<end_of_utterance>"),
    names={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"},
    stop=("</s>", "<end_of_utterance>"),
    tokenizer_class="LlamaTokenizer",
    adds_bos=True,
    sentencepiece=True,
    multiple=1,
    extra={"add_bos_token": True, "add_eos_token": False, "legacy": False},
)
INTERNVL_VOCABULARY = Vocabulary(
    last=(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<img>",
        "</img>",
        "<IMG_CONTEXT>",
        "<video>",
    ),
    names={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    stop=("<|im_end|>", "<|endoftext|>"),
    tokenizer_class="Qwen2Tokenizer",
    extra={
        "add_bos_token": False,
        "bos_token": None,
        "context_image_token": "<IMG_CONTEXT>",
        "end_image_token": "</img>",
        "extra_special_tokens": {
            "context_image_token": "<IMG_CONTEXT>",
            "end_image_token": "</img>",
            "start_image_token": "<img>",
            "video_token": "<video>",
        },
        "start_image_token": "<img>",
        "unk_token": None,
        "video_token": "<video>",
    },
)
AYA_VOCABULARY = Vocabulary(
    first=("<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<EOP_TOKEN>"),
    last=(
        "<|START_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
        "<|START_RESPONSE|>",
        "<|END_RESPONSE|>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_LINE_BREAK|>",
        "<|IMG_PATCH|>",
        "TILE_GLOBAL",
        *(f"TILE_{index}" for index in range(1, 13)),
    ),
    names={
        "bos_token": "<BOS_TOKEN>",
        "eos_token": "<|END_OF_TURN_TOKEN|>",
        "pad_token": "<PAD>",
        "unk_token": "<UNK>",
    },
    stop=("<|END_OF_TURN_TOKEN|>",),
    tokenizer_class="CohereTokenizer",
    adds_bos=True,
    extra={"add_bos_token": True, "add_eos_token": False},
)
LFM2_VL_VOCABULARY = Vocabulary(
    first=("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    last=(
        "<image>",
        "<|img_thumbnail|>",
        *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 10 // row + 1)),
        "<|image_start|>",
        "<|image_end|>",
    ),
    names={"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"},
    stop=("<|im_end|>",),
    adds_bos=True,
    extra={
        "extra_special_tokens": {
            "image_end_token": "<|image_end|>",
            "image_start_token": "<|image_start|>",
            "image_thumbnail": "<|img_thumbnail|>",
            "image_token": "<image>",
        },
        "legacy": False,
    },
)
KIMI_VL_VOCABULARY = Vocabulary(
    # A BOS token that neither the template nor the tokenizer writes.
    last=(
        "[BOS]",
        "[EOS]",
        "<|im_end|>",
        "<|im_user|>",
        "<|im_assistant|>",
        "<|im_system|>",
        "<|im_middle|>",
        "<|media_start|>",
        "<|media_content|>",
        "<|media_end|>",
        "<|media_pad|>",
        "[UNK]",
        "[PAD]",
    ),
    names={"bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]", "unk_token": "[UNK]"},
    stop=("<|im_end|>",),
)

# ---------------------------------------------------------------------------------------------
# Pieces of config.json and preprocessor_config.json that several families share

_VIT = {**VIT, "image_size": 32}
_SIGLIP = {**SIGLIP, "image_size": 32}
# An image is one view of 2 to 4 tokens, or up to 10 tiles of 4 tokens and such a view.
_LFM2_TILES = {
    "do_image_splitting": True,
    "encoder_patch_size": 8,
    "max_image_tokens": 4,
    "max_num_patches": 16,
    "max_pixels_tolerance": 2.0,
    "max_tiles": 10,
    "min_image_tokens": 2,
    "min_tiles": 2,
    "tile_size": 32,
    "use_thumbnail": True,
}
_ONEVISION_PINPOINTS = [[32 * rows, 32 * columns] for rows in range(1, 4) for columns in range(1, 4)]
_PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]

# ---------------------------------------------------------------------------------------------
# Weights


def _publish_kimi(weights: Weights) -> Weights:
    """Name the tower's layers as published, and write every expert by itself."""
    rename = publishing(
        (r"^vision_tower\.(blocks|final_layernorm)", r"vision_tower.encoder.\1"),
        (r"(blocks\.\d+)\.attn\.", r"\1."),
    )
    published: Weights = {}
    for name, value in rename(weights).items():
        if ".switch_mlp." in name:
            published |= {name.replace("switch_mlp", f"experts.{index}"): expert for index, expert in enumerate(value)}
        else:
            published[name] = value
    return published


# ---------------------------------------------------------------------------------------------

FAMILIES: Mapping[str, Family] = {
    "llava_next": Family(
        vocabulary=LLAVA_NEXT_VOCABULARY,
        template=LLAVA_NEXT_TEMPLATE,
        template_in_tokenizer=False,
        publish=publishing(),
        files={
            "config.json": {
                "architectures": ["LlavaNextForConditionalGeneration"],
                "ignore_index": -100,
                "image_grid_pinpoints": _PINPOINTS,
                "image_token_index": Token("<image>"),
                "model_type": "llava_next",
                "projector_hidden_act": "gelu",
                "text_config": {
                    **TEXT,
                    "architectures": ["MistralForCausalLM"],
                    "model_type": "mistral",
                    "rope_theta": 1000000.0,
                    "sliding_window": None,
                },
                "tie_word_embeddings": False,
                "use_image_newline_parameter": True,
                "vision_config": {
                    **_VIT,
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
                "aspect_ratio_setting": "anyres",
                "crop_size": {"height": 32, "width": 32},
                "do_center_crop": True,
                "do_pad": True,
                "image_grid_pinpoints": _PINPOINTS,
                "image_processor_type": "LlavaNextImageProcessor",
                "processor_class": "LlavaNextProcessor",
                "resample": 3,
                "size": {"shortest_edge": 32},
            },
            "processor_config.json": {
                "image_token": "<image>",
                "num_additional_image_tokens": 1,
                "patch_size": 8,
                "processor_class": "LlavaNextProcessor",
                "vision_feature_select_strategy": "default",
            },
        },
    ),
    "llava_onevision": Family(
        vocabulary=LLAVA_ONEVISION_VOCABULARY,
        template=LLAVA_ONEVISION_TEMPLATE,
        template_in_tokenizer=False,
        publish=publishing(),
        files={
            "config.json": {
                "architectures": ["LlavaOnevisionForConditionalGeneration"],
                "ignore_index": -100,
                "image_grid_pinpoints": _ONEVISION_PINPOINTS,
                "image_token_index": Token("<image>"),
                "model_type": "llava_onevision",
                "projector_hidden_act": "gelu",
                "text_config": {
                    **TEXT,
                    "architectures": ["Qwen2ForCausalLM"],
                    "bos_token_id": Token("<|endoftext|>"),
                    "eos_token_id": Token("<|im_end|>"),
                    "model_type": "qwen2",
                    "rms_norm_eps": 1e-6,
                    "rope_theta": 1000000.0,
                    "tie_word_embeddings": True,
                },
                "tie_word_embeddings": True,
                "use_image_newline_parameter": True,
                "video_token_index": Token("<video>"),
                # More tiles than these are pooled (published: anyres_max_9 of up to 36).
                "vision_aspect_ratio": "anyres_max_4",
                "vision_config": _SIGLIP,
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "full",
            },
            "preprocessor_config.json": {
                **DO_ALL,
                **HALF_STATS,
                "do_pad": True,
                "image_grid_pinpoints": _ONEVISION_PINPOINTS,
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "processor_class": "LlavaOnevisionProcessor",
                "resample": 3,
                "size": {"height": 32, "width": 32},
            },
            "processor_config.json": {
                "image_token": "<image>",
                "num_image_tokens": 16,
                "processor_class": "LlavaOnevisionProcessor",
                "video_token": "<video>",
                "vision_aspect_ratio": "anyres_max_4",
                "vision_feature_select_strategy": "full",
            },
            "video_preprocessor_config.json": {
                **DO_ALL,
                **HALF_STATS,
                "processor_class": "LlavaOnevisionProcessor",
                "resample": 3,
                "size": {"height": 32, "width": 32},
                "video_processor_type": "LlavaOnevisionVideoProcessor",
            },
        },
    ),
    "idefics2": Family(
        vocabulary=IDEFICS2_VOCABULARY,
        template=IDEFICS2_TEMPLATE,
        publish=publishing(
            (r"^language_model\.lm_head", "lm_head"),
            (r"^language_model", "model.text_model"),
            (r"^(vision_model|connector)", r"model.\1"),
        ),
        files={
            "config.json": {
                "architectures": ["Idefics2ForConditionalGeneration"],
                "image_token_id": Token("<image>"),
                "model_type": "idefics2",
                "perceiver_config": {
                    "hidden_act": "silu",
                    "hidden_size": 32,
                    "model_type": "idefics2",
                    "num_key_value_heads": 1,
                    "resampler_depth": 2,
                    "resampler_head_dim": 32,
                    "resampler_n_heads": 2,
                    "resampler_n_latents": 4,
                    "rms_norm_eps": 1e-5,
                },
                "text_config": {
                    **TEXT,
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "model_type": "mistral",
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "pad_token_id": Token("<unk>"),
                    "rope_theta": 10000.0,
                    "sliding_window": None,
                },
                "tie_word_embeddings": False,
                "vision_config": {**_VIT, "image_size": 64, "model_type": "idefics2"},
            },
            "preprocessor_config.json": {
                **DO_ALL,
                **HALF_STATS,
                "do_image_splitting": True,
                "do_pad": True,
                "image_processor_type": "Idefics2ImageProcessor",
                "processor_class": "Idefics2Processor",
                "resample": 2,
                "size": {"longest_edge": 64, "shortest_edge": 24},
            },
            "processor_config.json": {"image_seq_len": 4, "processor_class": "Idefics2Processor"},
        },
    ),
    "internvl": Family(
        vocabulary=INTERNVL_VOCABULARY,
        template=INTERNVL_TEMPLATE,
        publish=publishing(),
        files={
            "config.json": {
                "architectures": ["InternVLForConditionalGeneration"],
                "downsample_ratio": 0.5,
                "image_seq_length": 4,
                "image_token_id": Token("<IMG_CONTEXT>"),
                "max_dynamic_patch": 4,
                "model_type": "internvl",
                "projector_hidden_act": "gelu",
                "text_config": {
                    **TEXT,
                    "architectures": ["Qwen3ForCausalLM"],
                    "attention_bias": False,
                    "head_dim": 32,
                    "model_type": "qwen3",
                    "rms_norm_eps": 1e-6,
                    "rope_theta": 1000000,
                    "tie_word_embeddings": False,
                },
                "tie_word_embeddings": False,
                "vision_config": {
                    **_VIT,
                    "attention_bias": True,
                    "hidden_act": "gelu",
                    "image_size": [32, 32],
                    "layer_scale_init_value": 0.1,
                    "model_type": "internvl_vision",
                    "norm_type": "layer_norm",
                    "patch_size": [8, 8],
                    "use_absolute_position_embeddings": True,
                    "use_qk_norm": False,
                },
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "default",
            },
            "preprocessor_config.json": {
                **DO_ALL,
                "crop_to_patches": True,
                "image_mean": [0.485, 0.456, 0.406],
                "image_processor_type": "GotOcr2ImageProcessor",
                "image_std": [0.229, 0.224, 0.225],
                "max_patches": 4,
                "min_patches": 1,
                "processor_class": "InternVLProcessor",
                "resample": 3,
                "size": {"height": 32, "width": 32},
            },
            "processor_config.json": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
        },
    ),
    "aya_vision": Family(
        vocabulary=AYA_VOCABULARY,
        template=AYA_TEMPLATE,
        publish=publishing(),
        files={
            "config.json": {
                "adapter_layer_norm_eps": 1e-6,
                "alignment_intermediate_size": 128,
                "architectures": ["AyaVisionForConditionalGeneration"],
                "downsample_factor": 2,
                "image_token_index": Token("<|IMG_PATCH|>"),
                "max_splits_per_img": 4,
                "model_type": "aya_vision",
                "text_config": {
                    **{key: value for key, value in TEXT.items() if key != "rms_norm_eps"},
                    "architectures": ["Cohere2ForCausalLM"],
                    "attention_bias": False,
                    "bos_token_id": Token("<BOS_TOKEN>"),
                    "eos_token_id": Token("<|END_OF_TURN_TOKEN|>"),
                    "head_dim": 16,
                    "layer_norm_eps": 1e-5,
                    "logit_scale": 0.25,
                    "model_type": "cohere2",
                    # Two sliding layers and two full ones; the window is shorter than a row with an image.
                    "num_hidden_layers": 4,
                    "pad_token_id": Token("<PAD>"),
                    "rope_theta": 50000,
                    "sliding_window": 16,
                    "sliding_window_pattern": 2,
                },
                "tie_word_embeddings": True,
                "vision_config": _SIGLIP,
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "full",
            },
            "preprocessor_config.json": {
                **DO_ALL,
                **HALF_STATS,
                "crop_to_patches": True,
                "image_processor_type": "GotOcr2ImageProcessor",
                "max_patches": 4,
                "min_patches": 1,
                "processor_class": "AyaVisionProcessor",
                "resample": 3,
                "size": {"height": 32, "width": 32},
            },
            "processor_config.json": {
                "downsample_factor": 2,
                "image_token": "<image>",
                "img_size": 32,
                "patch_size": 8,
                "processor_class": "AyaVisionProcessor",
            },
        },
    ),
    "lfm2_vl": Family(
        vocabulary=LFM2_VL_VOCABULARY,
        template=LFM2_VL_TEMPLATE,
        publish=publishing(
            (r"^language_model\.model", "model.language_model"),
            (r"^vision_tower", "model.vision_tower.vision_model"),
            (r"^multi_modal_projector", "model.multi_modal_projector"),
            channels_first=r"conv\.weight$",
        ),
        files={
            "config.json": {
                **_LFM2_TILES,
                "architectures": ["Lfm2VlForConditionalGeneration"],
                "downsample_factor": 2,
                "image_token_id": Token("<image>"),
                "model_type": "lfm2_vl",
                "projector_bias": True,
                "projector_hidden_act": "gelu",
                "projector_hidden_size": 64,
                "projector_use_layernorm": True,
                "text_config": {
                    "architectures": ["Lfm2ForCausalLM"],
                    "block_auto_adjust_ff_dim": True,
                    "block_dim": 64,
                    "block_ff_dim": 192,
                    "block_ffn_dim_multiplier": 1.0,
                    "block_multiple_of": 32,
                    "block_norm_eps": 1e-5,
                    "block_use_swiglu": True,
                    "bos_token_id": Token("<|startoftext|>"),
                    "conv_L_cache": 3,
                    "conv_bias": False,
                    "conv_dim": 64,
                    "conv_dim_out": 64,
                    "eos_token_id": Token("<|im_end|>"),
                    "hidden_size": 64,
                    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
                    "max_position_embeddings": 2048,
                    "model_type": "lfm2",
                    "norm_eps": 1e-5,
                    "num_attention_heads": 4,
                    "num_heads": 4,
                    "num_hidden_layers": 4,
                    "num_key_value_heads": 2,
                    "pad_token_id": Token("<|pad|>"),
                    "rope_theta": 1000000.0,
                    "tie_word_embeddings": True,
                    "vocab_size": VOCAB_SIZE,
                },
                "tie_word_embeddings": True,
                "use_image_special_tokens": True,
                "vision_config": {
                    "hidden_act": "gelu_pytorch_tanh",
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "layer_norm_eps": 1e-6,
                    "model_type": "siglip2_vision_model",
                    "num_attention_heads": 2,
                    "num_channels": 3,
                    "num_hidden_layers": 2,
                    "num_patches": 16,
                    "patch_size": 8,
                    "vision_use_head": False,
                },
                "vision_feature_layer": -1,
            },
            "preprocessor_config.json": {
                **DO_ALL,
                **HALF_STATS,
                **_LFM2_TILES,
                "do_pad": True,
                "downsample_factor": 2,
                "image_processor_type": "Lfm2VlImageProcessor",
                "processor_class": "Lfm2VlProcessor",
                "resample": 3,
                "size": {"height": 32, "width": 32},
            },
            "processor_config.json": {"processor_class": "Lfm2VlProcessor", "use_image_special_tokens": True},
        },
    ),
    "kimi_vl": Family(
        vocabulary=KIMI_VL_VOCABULARY,
        template=KIMI_VL_TEMPLATE,
        publish=_publish_kimi,
        files={
            "config.json": {
                "architectures": ["KimiVLForConditionalGeneration"],
                "ignore_index": -100,
                "media_placeholder_token_id": Token("<|media_pad|>"),
                "model_type": "kimi_vl",
                "text_config": {
                    **TEXT,
                    "attention_bias": False,
                    "bos_token_id": Token("[BOS]"),
                    "eos_token_id": Token("[EOS]"),
                    "first_k_dense_replace": 2,
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "kv_lora_rank": 32,
                    "model_type": "deepseek_v3",
                    "moe_intermediate_size": 32,
                    "moe_layer_freq": 1,
                    "n_group": 1,
                    "n_routed_experts": 4,
                    "n_shared_experts": 2,
                    "norm_topk_prob": True,
                    "num_experts_per_tok": 2,
                    "num_attention_heads": 2,
                    "num_hidden_layers": 4,
                    "num_key_value_heads": 2,
                    "pad_token_id": Token("[PAD]"),
                    "q_lora_rank": None,
                    "qk_nope_head_dim": 16,
                    "qk_rope_head_dim": 8,
                    "rope_scaling": None,
                    "rope_theta": 800000.0,
                    "routed_scaling_factor": 2.446,
                    "scoring_func": "sigmoid",
                    "tie_word_embeddings": False,
                    "topk_group": 1,
                    "topk_method": "noaux_tc",
                    "v_head_dim": 16,
                },
                "vision_config": {
                    # mlx-vlm always cuts patches of 14, and reads depth, embed_dim and
                    # num_heads where the published file has the other three.
                    "depth": 2,
                    "embed_dim": 32,
                    "hidden_size": 32,
                    "init_pos_emb_height": 4,
                    "init_pos_emb_width": 4,
                    "intermediate_size": 64,
                    "merge_kernel_size": [2, 2],
                    "model_type": "moonvit",
                    "num_attention_heads": 2,
                    "num_heads": 2,
                    "num_hidden_layers": 2,
                    "patch_size": 14,
                },
                "vocab_size": VOCAB_SIZE,
            },
            "preprocessor_config.json": {
                **CLIP_STATS,
                "image_processor_type": "KimiVLImageProcessor",
                "in_token_limit": 64,
                "merge_kernel_size": [2, 2],
                "pad_input": True,
                "patch_size": 14,
                "processor_class": "KimiVLProcessor",
            },
        },
    ),
}
