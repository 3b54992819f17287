"""Builds a Qwen3-VL that is small enough to be trained from scratch in minutes: the quickstart's base model.

Only its size is unusual: it has mlx-vlm's architecture and processor, a byte-level tokenizer that is trained here, and
a ChatML template. Its folder has the layout of mlx-vlm's conversions, and any program that opens those can open it.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_vlm.models import qwen3_vl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from ...output.atomic import write_whole_folder

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "user assistant system\n",
    "Which digit is this? Write this number as a word. Is this number even or odd?",
    "What is in this image? Describe the picture. How many are there?",
    "0 1 2 3 4 5 6 7 8 9",
    "zero one two three four five six seven eight nine even odd yes no",
) * 4
N_TOKENS = 448
PATCH, MERGE = 8, 2
WIDTH, N_LAYERS, N_HEADS, HEAD_WIDTH = 128, 3, 4, 32
VISION_WIDTH, N_VISION_LAYERS = 96, 3


def build_tiny_qwen3_vl(folder: Path, *, seed: int = 0) -> Path:
    """Write the model's folder, unless it exists.

    Args:
        folder: The folder; created if necessary.
        seed: Fixes the random weights.

    Returns:
        The folder.
    """
    if (folder / "config.json").is_file():
        return folder
    # Atomically: an existing folder is never built again.
    write_whole_folder(folder, lambda partial: _write(partial, seed))
    return folder


def _write(folder: Path, seed: int) -> None:
    tokenizer = _make_tokenizer()
    config = _make_config(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": 2048,
        },
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "processor_class": "Qwen3VLProcessor",
            "patch_size": PATCH,
            "merge_size": MERGE,
            "temporal_patch_size": 2,
            "size": {"shortest_edge": 16 * 16, "longest_edge": 128 * 128},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        "generation_config.json": {"eos_token_id": config["eos_token_id"]},
        "config.json": config,
    }
    weights = _make_weights(config, seed)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _make_tokenizer() -> Tokenizer:
    """Train a byte-level tokenizer on a few sentences: any text has ids, common words have one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_TOKENS - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # its order is arbitrary
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def _make_config(tokenizer: Tokenizer) -> dict[str, Any]:
    n_tokens = tokenizer.get_vocab_size()
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "vocab_size": n_tokens,
        "tie_word_embeddings": True,
        "text_config": _make_text_config(n_tokens),
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": N_VISION_LAYERS,
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 2 * VISION_WIDTH,
            "out_hidden_size": WIDTH,
            "num_heads": 3,
            "patch_size": PATCH,
            "in_channels": 3,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
            "hidden_act": "gelu_pytorch_tanh",
        },
    }


def _make_text_config(n_tokens: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3_vl_text",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_HEADS // 2,
        "head_dim": HEAD_WIDTH,
        "rms_norm_eps": 1e-6,
        "vocab_size": n_tokens,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "default",
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "attention_bias": False,
        "hidden_act": "silu",
    }


def _make_weights(config: dict[str, Any], seed: int) -> dict[str, mx.array]:
    """Draw random matrices, scaled by their width; biases are zero, norms are as initialized."""
    # from_dict writes into its argument.
    model = qwen3_vl.Model(qwen3_vl.ModelConfig.from_dict(json.loads(json.dumps(config))))
    names = [name for name, _ in tree_flatten(model.parameters())]
    keys = dict(zip(names, mx.random.split(mx.random.key(seed), len(names)), strict=True))

    def draw(name: str, value: mx.array) -> mx.array:
        if value.ndim <= 1:
            # Norms begin as ones. MLX draws biases from its global random state, which the seed does not fix.
            return mx.zeros_like(value) if name.endswith("bias") else value
        std = 0.5 if "embed_tokens" in name else (value.size // value.shape[0]) ** -0.5
        return std * mx.random.normal(value.shape, key=keys[name])

    model.update(tree_map_with_path(draw, model.parameters()))
    return dict(tree_flatten(model.parameters()))
