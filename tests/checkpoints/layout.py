"""How a tiny checkpoint is described and written.

The folder is laid out like a published one: the family's own model class, processor class, special tokens and
files; only the sizes and the (random) weights differ. Nothing here imports vlora.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
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
BOUND = 2.0  # of activations, where a family bounds them
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
    """A token's text inside a JSON file of a `Family`; written as the token's id."""

    __slots__ = ()


VOCAB_SIZE = Token()  # written as the language model's vocabulary size

Weights = dict[str, mx.array]


def as_named(weights: Weights) -> Weights:
    """Keep the weights as mlx-vlm names them."""
    return weights


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
        leading_space: Whether a text begins as if a space stood before it (sentencepiece only).
        line_breaks: Up to how many line breaks in a row are one token (sentencepiece only).
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
    leading_space: bool = True
    line_breaks: int = 0
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
    """One model family's checkpoint, as data.

    Args:
        vocabulary: How the tokenizer is made.
        template: The chat template, or None where mlx-vlm's processor carries its own.
        template_in_tokenizer: Whether tokenizer_config.json repeats chat_template.json.
        files: The JSON files of the folder; each `Token` in them is written as a number.
        publish: Gives the model's parameters the names and layouts of the published files, so that transformers
            reads them too.
        scales: Regular expressions over names of parameters, and what those are multiplied with: where the values
            that they are drawn with would make a tiny model's output a matter of rounding.
    """

    vocabulary: Vocabulary
    template: str | None
    template_in_tokenizer: bool = True
    files: Mapping[str, Mapping[str, Any]]
    publish: Callable[[Weights], Weights] = as_named
    scales: Mapping[str, float] = attrs.field(factory=dict)

    def scaled(self, weights: Weights) -> Weights:
        """Multiply drawn parameters by `scales`."""
        factors = {name: [f for pattern, f in self.scales.items() if re.search(pattern, name)] for name in weights}
        return {name: value * math.prod(factors[name]) for name, value in weights.items()}


def write_checkpoint(spec: Family, folder: Path, *, seed: int = 0) -> Path:
    """Write a complete tiny checkpoint; the same call writes the same bytes.

    Args:
        spec: Its description.
        folder: Where to write; made if missing. Files of the same names are replaced.
        seed: Decides the weights (float32); tokenizer and configuration do not depend on it.

    Returns:
        `folder`, ready for `mlx_vlm.load(str(folder))`.
    """
    config = write_files(spec, folder)
    weights = spec.publish(spec.scaled(_random_weights(make_model(config), seed)))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def make_config(spec: Family) -> dict[str, Any]:
    """Return a checkpoint's config.json."""
    tokenizer = _make_tokenizer(spec.vocabulary)
    config: dict[str, Any] = _with_ids(spec.files["config.json"], spec, tokenizer)
    return config | {"torch_dtype": "float32", "transformers_version": "4.57.1"}


def write_files(spec: Family, folder: Path) -> dict[str, Any]:
    """Write all of a checkpoint but its weights: configuration, tokenizer, template and processor.

    Args:
        spec: Its description.
        folder: As for `write_checkpoint`.

    Returns:
        Its config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _make_tokenizer(spec.vocabulary)
    files = {name: _with_ids(content, spec, tokenizer) for name, content in spec.files.items()}
    files["config.json"] = config = make_config(spec)
    files["generation_config.json"] = _generation_config(spec.vocabulary, tokenizer)
    files["tokenizer_config.json"] = _tokenizer_config(spec, tokenizer)
    if spec.template is not None:
        files["chat_template.json"] = {"chat_template": spec.template}
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    return config


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
    breaks = ["\n" * count for count in range(1, vocabulary.line_breaks + 1)]
    merges = [(text[len(text) // 2 :], text[: len(text) // 2]) for text in breaks[1:]] + merges
    pieces += [*breaks[:1], *("".join(pair) for pair in merges)]
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
        spaces = normalizers.Replace(" ", "▁")
        spelled: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if vocabulary.leading_space:
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
            spelled.append(decoders.Strip(" ", 1, 0))
        else:
            tokenizer.normalizer = spaces
        tokenizer.decoder = decoders.Sequence(spelled)
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


def make_model(config: Mapping[str, Any]) -> nn.Module:
    """Make the mlx-vlm model that `mlx_vlm.load` would make for this config.json."""
    settings: dict[str, Any] = json.loads(json.dumps(config))  # from_dict rewrites its argument
    package, _ = get_model_and_args(settings)
    for section in ("text_config", "vision_config", "audio_config"):
        settings.setdefault(section, {})
    model_config = package.ModelConfig.from_dict(settings)
    sections = ["text", "vision", "perceiver", "projector", "audio"]
    model_config = update_module_configs(model_config, package, settings, sections)
    model: nn.Module = package.Model(model_config)
    return model


def single_element(name: str) -> float:
    """Open a gate; let a bound cut some activations off."""
    return {"min": -BOUND, "max": BOUND}.get(name.rpartition("_")[2], GATE)


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
            weights[name] = mx.full(value.shape, single_element(name), dtype=mx.float32)
        else:
            noise = generator.standard_normal(value.shape, dtype=np.float32)
            weights[name] = mx.array(noise * np.float32(WEIGHT_STD))
    return weights
