"""The checkpoints of Gemma's multimodal families, as data, under published names."""

from collections.abc import Mapping
from typing import Any

import attrs
import mlx.core as mx

from .layout import VOCAB_SIZE, Family, Token, Vocabulary, Weights
from .pieces import DO_ALL, HALF_STATS, SIGLIP, publishing

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

GEMMA3N_TEMPLATE = GEMMA3_TEMPLATE.replace("<start_of_image>", "<image_soft_token>")

# A system prompt is a turn of its own.
GEMMA4_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|turn>' + message['role'] | replace('assistant', 'model') + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<turn|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)

# ---------------------------------------------------------------------------------------------
# Vocabularies

_TURNS = ("<start_of_turn>", "<end_of_turn>")


def _vocabulary(processor: str, *, turns: tuple[str, ...] = (), last: tuple[str, ...], **extra: object) -> Vocabulary:
    """Describe a Gemma's tokenizer: pieces of SentencePiece, and line breaks joined.

    Args:
        processor: Its processor's class.
        turns: What begins and ends a turn, if there are turns.
        last: The tokens with the highest ids.
        extra: Further entries of tokenizer_config.json.
    """
    return Vocabulary(
        first=("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *turns),
        last=last,
        names={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        stop=("<eos>", *turns[1:]),
        tokenizer_class="GemmaTokenizer",
        adds_bos=True,
        sentencepiece=True,
        leading_space=False,
        line_breaks=4,
        extra={"add_bos_token": True, "add_eos_token": False, "processor_class": processor, **extra},
    )


def _media(**tokens: str) -> dict[str, object]:
    """Write the tokens of images and sounds as tokenizer_config.json has them."""
    return {**tokens, "extra_special_tokens": tokens}


_GEMMA3_IMAGE = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
GEMMA3_VOCABULARY = _vocabulary(
    "Gemma3Processor",
    turns=_TURNS,
    last=("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    **_media(**_GEMMA3_IMAGE),
)

_GEMMA3N = _vocabulary(
    "Gemma3nProcessor",
    turns=_TURNS,
    # What the vision tower's embedder has a table for, and what the audio tower's has.
    last=("<end_of_image>", "<image_soft_token>", "<end_of_audio>", "<audio_soft_token>"),
    **_media(
        **_GEMMA3_IMAGE, audio_token="<audio_soft_token>", boa_token="<start_of_audio>", eoa_token="<end_of_audio>"
    ),
)
GEMMA3N_VOCABULARY = attrs.evolve(_GEMMA3N, first=(*_GEMMA3N.first, "<start_of_image>", "<start_of_audio>"), multiple=1)

_GEMMA4_MEDIA = {
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "boi_token": "<|image>",
    "eoa_token": "<audio|>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
}
GEMMA4_VOCABULARY = _vocabulary(
    "Gemma4Processor",
    turns=("<|turn>", "<turn|>"),
    last=(*_GEMMA4_MEDIA.values(), "<|video|>"),
    **_media(**_GEMMA4_MEDIA),
)
PALIGEMMA_VOCABULARY = _vocabulary("PaliGemmaProcessor", last=("<image>",), additional_special_tokens=["<image>"])

# ---------------------------------------------------------------------------------------------
# Pieces of config.json and preprocessor_config.json that several families share

_DO_ALL = {**DO_ALL, "do_convert_rgb": None}
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

# ---------------------------------------------------------------------------------------------
# Weights

_publish = publishing(dropped=r"^language_model\.lm_head\.")


def _publish_gemma4(weights: Weights) -> Weights:
    """Name everything within the model, and write the experts' gate and up projections as one array."""
    published: Weights = {}
    for name, value in weights.items():
        name = "model." + name.replace("language_model.model.", "language_model.")  # noqa: PLW2901
        prefix, separator, kind = name.partition(".switch_glu.")
        if not separator:
            published[name] = value
        elif kind == "down_proj.weight":
            published[f"{prefix}.down_proj"] = value
        elif kind == "gate_proj.weight":
            up = weights[
                name.removeprefix("model.").replace("language_model.", "language_model.model.").replace("gate", "up")
            ]
            published[f"{prefix}.gate_up_proj"] = mx.concatenate([value, up], axis=1)
    return published


def _gemma4(text: Mapping[str, Any]) -> Family:
    """Describe a Gemma 4 by what its language models do not share."""
    return Family(
        vocabulary=GEMMA4_VOCABULARY,
        template=GEMMA4_TEMPLATE,
        publish=_publish_gemma4,
        # Queries and keys are normalized, and their products not divided by anything.
        scales={r"\.[qk]_norm\.weight$": 0.5},
        files={
            "config.json": {
                "architectures": ["Gemma4ForConditionalGeneration"],
                "audio_config": None,
                "audio_token_id": Token("<|audio|>"),
                "boa_token_id": Token("<|audio>"),
                "boi_token_id": Token("<|image>"),
                "eoa_token_id": Token("<audio|>"),
                "eoa_token_index": Token("<audio|>"),
                "eoi_token_id": Token("<image|>"),
                "eos_token_id": [Token("<eos>"), Token("<turn|>")],
                "image_token_id": Token("<|image|>"),
                "initializer_range": 0.02,
                "model_type": "gemma4",
                "text_config": {
                    **_TEXT,
                    "final_logit_softcapping": 3.0,
                    "global_head_dim": 32,
                    "head_dim": 16,
                    "hidden_size": 64,
                    "intermediate_size": 64,
                    "model_type": "gemma4_text",
                    "rope_parameters": {
                        "full_attention": {
                            "partial_rotary_factor": 0.25,
                            "rope_theta": 1000000.0,
                            "rope_type": "proportional",
                        },
                        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
                    },
                    # Shorter than an image.
                    "sliding_window": 24,
                    "tie_word_embeddings": True,
                    **text,
                },
                "tie_word_embeddings": True,
                "video_token_id": Token("<|video|>"),
                "vision_config": {
                    "default_output_length": 70,
                    "global_head_dim": 16,
                    "head_dim": 16,
                    "hidden_activation": "gelu_pytorch_tanh",
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "model_type": "gemma4_vision",
                    "num_attention_heads": 2,
                    "num_hidden_layers": 2,
                    "num_key_value_heads": 2,
                    "patch_size": 4,
                    "pooling_kernel_size": 2,
                    "position_embedding_size": 160,
                    "rms_norm_eps": 1e-6,
                    "rope_parameters": {"rope_theta": 100.0, "rope_type": "default"},
                    "standardize": True,
                    "use_clipped_linears": True,
                },
                "vision_soft_tokens_per_image": 70,
            },
            "processor_config.json": {
                "audio_ms_per_token": 40,
                "audio_seq_length": 750,
                "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor"},
                "image_processor": {
                    **_DO_ALL,
                    "do_convert_rgb": True,
                    "do_normalize": False,
                    "image_mean": [0.0, 0.0, 0.0],
                    "image_processor_type": "Gemma4ImageProcessor",
                    "image_seq_length": 70,
                    "image_std": [1.0, 1.0, 1.0],
                    "max_soft_tokens": 70,
                    "patch_size": 4,
                    "pooling_kernel_size": 2,
                    "resample": 3,
                },
                "image_seq_length": 70,
                "processor_class": "Gemma4Processor",
                "video_processor": {"video_processor_type": "Gemma4VideoProcessor"},
            },
        },
    )


def _paligemma(text: Mapping[str, Any]) -> Family:
    """Describe a PaliGemma by its language model."""
    return Family(
        vocabulary=PALIGEMMA_VOCABULARY,
        template=None,
        publish=_publish,
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
                "vision_config": {**SIGLIP, "image_size": 32, "num_image_tokens": 16, "projection_dim": 96},
            },
            "preprocessor_config.json": {
                **_DO_ALL,
                **HALF_STATS,
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
        publish=_publish,
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
                "vision_config": {**SIGLIP, "image_size": 64},
            },
            "preprocessor_config.json": {
                **_DO_ALL,
                **HALF_STATS,
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
    # As the small ones: later layers share keys and values, and every layer has inputs of its own.
    "gemma4": _gemma4(
        {
            "hidden_size_per_layer_input": 32,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "num_hidden_layers": 6,
            "num_key_value_heads": 1,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "vocab_size_per_layer_input": VOCAB_SIZE,
        }
    ),
    # As the large ones: images see themselves whole, keys are values, and some experts.
    "gemma4_moe": _gemma4(
        {
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "hidden_size_per_layer_input": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "moe_intermediate_size": 32,
            "num_experts": 4,
            "num_global_key_value_heads": 1,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 0,
            "top_k_experts": 2,
            "use_bidirectional_attention": "vision",
            "use_double_wide_mlp": False,
            "vocab_size_per_layer_input": VOCAB_SIZE,
        }
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

# The vision tower's sizes are those of one published model, in timm and in mlx-vlm alike: 294 million parameters.
LARGE_FAMILIES: Mapping[str, Family] = {
    "gemma3n": Family(
        vocabulary=GEMMA3N_VOCABULARY,
        template=GEMMA3N_TEMPLATE,
        publish=publishing((r"^language_model\.model\.", "language_model."), (r"^", "model."), channels_first=""),
        scales={
            # These norms are drawn like any other parameter.
            r"^embed_vision\..*_norm\.weight$": 10,
            # Nothing else divides the products of queries and keys.
            r"\.self_attn\.[qk]_norm\.weight$": 0.5,
            r"\.attn\.(query|key)\.proj\.weight$": 0.4,
        },
        files={
            "config.json": {
                "architectures": ["Gemma3nForConditionalGeneration"],
                "audio_config": {
                    "conf_num_attention_heads": 2,
                    "conf_num_hidden_layers": 1,
                    "hidden_size": 32,
                    "input_feat_size": 128,
                    "model_type": "gemma3n_audio",
                    "sscp_conv_channel_size": [8, 4],
                    "vocab_offset": Token("<end_of_audio>"),
                    "vocab_size": 2,
                },
                "audio_soft_tokens_per_image": 188,
                "audio_token_id": Token("<audio_soft_token>"),
                "boa_token_id": Token("<start_of_audio>"),
                "boi_token_id": Token("<start_of_image>"),
                "eoa_token_id": Token("<end_of_audio>"),
                "eoi_token_id": Token("<end_of_image>"),
                "eos_token_id": [Token("<eos>"), Token("<end_of_turn>")],
                "image_token_id": Token("<image_soft_token>"),
                "initializer_range": 0.02,
                "model_type": "gemma3n",
                "text_config": {
                    # Whether a value at the edge of what counts does so is a matter of rounding, and its gradient
                    # jumps: few are there. The published model is sparse in its first layers, and by 95 %.
                    "activation_sparsity_pattern": [0.0, 0.0, 0.0, 0.0, 0.0, 0.02],
                    "altup_active_idx": 0,
                    "altup_coef_clip": 120.0,
                    "altup_correct_scale": True,
                    "altup_num_inputs": 4,
                    "final_logit_softcapping": 30.0,
                    "head_dim": 16,
                    "hidden_activation": "gelu_pytorch_tanh",
                    "hidden_size": 96,
                    "hidden_size_per_layer_input": 32,
                    "intermediate_size": [128] * 6,
                    "laurel_rank": 32,
                    "layer_types": ["sliding_attention", "full_attention"] * 3,
                    "max_position_embeddings": 2048,
                    "model_type": "gemma3n_text",
                    "num_attention_heads": 4,
                    "num_hidden_layers": 6,
                    "num_key_value_heads": 2,
                    "num_kv_shared_layers": 2,
                    "rms_norm_eps": 1e-6,
                    "rope_local_base_freq": 10000.0,
                    "rope_scaling": None,
                    "rope_theta": 1000000.0,
                    # Shorter than an image, which a published window is not.
                    "sliding_window": 48,
                    "vocab_size": VOCAB_SIZE,
                    "vocab_size_per_layer_input": Token("<end_of_image>"),
                },
                "vision_config": {
                    "architecture": "mobilenetv5_300m_enc",
                    "do_pooling": False,
                    "hidden_size": 2048,
                    "initializer_range": 0.02,
                    "label_names": ["LABEL_0", "LABEL_1"],
                    "model_args": None,
                    "model_type": "gemma3n_vision",
                    "num_classes": 2,
                    "rms_norm_eps": 1e-6,
                    "vocab_offset": Token("<end_of_image>"),
                    "vocab_size": 2,
                },
                "vision_soft_tokens_per_image": 256,
            },
            "preprocessor_config.json": {
                **_DO_ALL,
                **HALF_STATS,
                "do_normalize": False,
                "feature_extractor_type": "Gemma3nAudioFeatureExtractor",
                "feature_size": 128,
                "image_processor_type": "SiglipImageProcessorFast",
                "image_seq_length": 256,
                "padding_value": 0.0,
                "processor_class": "Gemma3nProcessor",
                "resample": 2,
                "sampling_rate": 16000,
                "size": {"height": 768, "width": 768},
            },
            "processor_config.json": {
                "audio_seq_length": 188,
                "image_seq_length": 256,
                "processor_class": "Gemma3nProcessor",
            },
        },
    ),
}
