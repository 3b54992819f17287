"""Adds tokens to a model: to its tokenizer, its embedding table, its head and its files."""

import copy
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from tokenizers import AddedToken, Tokenizer

from ...adapters.attached import lora_layers
from ...errors import ModelError
from ...recipe.schema import ModelSection
from ..backbone.backbone import MlxVlmBackbone
from ..backbone.head import find_module
from .adapter_files import read_adapter
from .tables import find_tables
from .weights import build_module

KEY, SAVED = "model.add_tokens", "added_tokens"
"""The recipe's key, and that of an adapter's configuration."""

TEXT_PARTS = ("text_config", "language_config", "llm_config")
"""Parts of config.json that describe the language model."""

CONTEXTS = ("{}", "Z{}Z")
"""Text in which a token is searched."""


@attrs.frozen
class Numbered:
    """Tokens with the ids that a tokenizer has for them.

    Attributes:
        ids: Token to id.
        known: Those that it had before.
    """

    ids: Mapping[str, int]
    known: frozenset[str]

    def of(self, tokens: Collection[str]) -> "Numbered":
        """Keep only these tokens."""
        return Numbered({token: number for token, number in self.ids.items() if token in tokens}, self.known)


def name_saved(section: ModelSection) -> tuple[str, ...]:
    """Return the tokens of the adapter that training starts from.

    Raises:
        CheckpointError: The adapter does not exist.
    """
    return () if section.adapter_path is None else tuple(read_adapter(section.adapter_path)[1].get(SAVED) or ())


def name_tokens(section: ModelSection) -> tuple[str, ...]:
    """Return the tokens that a model gets: those of the adapter that training starts from, then those of the recipe.

    Raises:
        CheckpointError: The adapter does not exist.
        ModelError: They cannot be added to a language model that is quantized on loading.
    """
    tokens = tuple(dict.fromkeys([*name_saved(section), *section.add_tokens]))
    if tokens and section.quantize_bits is not None:
        msg = (
            f"model.quantize_bits: found {section.quantize_bits} together with added tokens ({KEY}), whose tables are "
            "trained; leave one of the two out, or take a base that is quantized already"
        )
        raise ModelError(msg)
    return tokens


def extend_tokenizer(processor: Any, tokens: Sequence[str]) -> Numbered:
    """Add tokens to a processor's tokenizer, in their order; those that it has keep their ids.

    Raises:
        ModelError: The tokenizer cannot be extended, or splits one of the tokens.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    try:
        vocabulary = tokenizer.get_vocab()
        fresh = [token for token in tokens if token not in vocabulary]
        # Exactly as written, without the normalization of other text.
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in fresh])
    except (AttributeError, NotImplementedError, TypeError):
        msg = f"{KEY}: the model's tokenizer ({type(tokenizer).__name__}) takes no further tokens; leave it out"
        raise ModelError(msg) from None
    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        number = vocabulary.get(token)
        texts = [context.format(token) for context in CONTEXTS]
        if not all(number in tokenizer.encode(text, add_special_tokens=False) for text in texts):
            msg = f"{KEY}: the model's tokenizer does not keep {token!r} whole; give another spelling"
            raise ModelError(msg)
    if fresh and hasattr(processor, "detokenizer"):
        # The tokenizer caches the list of its tokens.
        processor.detokenizer = type(processor.detokenizer)(tokenizer)
    return Numbered({token: vocabulary[token] for token in tokens}, frozenset(tokens) - frozenset(fresh))


def grow_tables(
    backbone: MlxVlmBackbone, numbered: Numbered, *, has_saved: bool = False, is_abstract: bool = False
) -> None:
    """Add a row for each new token to the embedding table and the head: the mean of the existing rows.

    A quantized table is unpacked. Rows that a padded table has for the new ids are set to that mean, too.

    Args:
        backbone: The model.
        numbered: The new tokens.
        has_saved: Whether they are those of an adapter, and the model may have them already.
        is_abstract: Whether the model has shapes only; see `abstract_backbone`.

    Raises:
        ModelError: The model has one of the tokens already, or its table or head is not known.
    """
    if not numbered.ids:
        return
    tables = find_tables(backbone)
    if len(tables) != 1 or backbone.head is None:
        what = "head" if len(tables) == 1 else "one table of token embeddings"
        msg = f"{KEY}: this family's {what} is not known, so that it cannot be enlarged; leave it out"
        raise ModelError(msg)
    n_rows = find_module(backbone.module, tables[0]).weight.shape[0]
    there = [token for token, number in numbered.ids.items() if token in numbered.known and number < n_rows]
    if there and has_saved:
        numbered = numbered.of(numbered.ids.keys() - set(there))
    elif there:
        token = min(there, key=numbered.ids.__getitem__)
        msg = f"{KEY}: {token!r} is a token of the model already ({numbered.ids[token]}); leave it out"
        raise ModelError(msg)
    if not numbered.ids:
        return
    first, end = min(numbered.ids.values()), max(numbered.ids.values()) + 1
    for name in dict.fromkeys([*tables, backbone.head.name]):
        module = _unpack(backbone.module, name)
        for part in ("weight", "bias"):
            if part in module:
                module[part] = _grow(module[part], first, end, is_abstract=is_abstract)


def _unpack(model: nn.Module, name: str) -> nn.Module:
    """Return a table or a head; a quantized one is replaced by a dequantized one."""
    module = find_module(model, name)
    if isinstance(module, (nn.Embedding, nn.Linear)):
        return module
    if isinstance(module, (nn.QuantizedEmbedding, nn.QuantizedLinear)):
        weight = mx.dequantize(
            module.weight, module.scales, module.get("biases"), module.group_size, module.bits, module.mode
        )
        dense = nn.Embedding(1, 1) if isinstance(module, nn.QuantizedEmbedding) else nn.Linear(1, 1, bias=False)
        dense.weight = weight
        if "bias" in module:
            dense.bias = module.bias
        dense._training = module.training  # noqa: SLF001 - as the one before
        dense.freeze()
        model.update_modules(tree_unflatten([(name, dense)]))
        return dense
    msg = f"{KEY}: {name} is a {type(module).__name__}, which cannot be enlarged; leave it out"
    raise ModelError(msg)


def _grow(rows: mx.array, first: int, end: int, *, is_abstract: bool) -> mx.array:
    """Give the rows from `first` to `end`, and those between what there is and them, the mean of those before."""
    n_kept = min(first, rows.shape[0])
    shape = (max(end, rows.shape[0]), *rows.shape[1:])
    if is_abstract:
        return mx.broadcast_to(mx.zeros((), rows.dtype), shape)
    mean = rows[:n_kept].astype(mx.float32).mean(axis=0, keepdims=True).astype(rows.dtype)
    new = mx.broadcast_to(mean, (end - n_kept, *rows.shape[1:]))
    grown = mx.concatenate([rows[:n_kept], new, rows[end:]])
    mx.eval(grown)
    return grown


def grow_config(config: Mapping[str, Any], backbone: MlxVlmBackbone, path: Path) -> dict[str, Any]:
    """Return a model's configuration with its new number of tokens.

    Args:
        config: The configuration before, in mlx-vlm's format.
        backbone: The model.
        path: The model's folder.

    Raises:
        ModelError: The number cannot be expressed for mlx-vlm.
    """
    names = dict.fromkeys([*find_tables(backbone), *([backbone.head.name] if backbone.head else [])])
    n_rows = {name: find_module(backbone.module, name).weight.shape[0] for name in names}
    grown = copy.deepcopy({key: value for key, value in config.items() if key != "generation_config"})
    texts = [grown[key] for key in TEXT_PARTS if isinstance(grown.get(key), dict)] or [grown]
    before = next((part["vocab_size"] for part in [*texts, grown] if "vocab_size" in part), None)
    for part in [grown, *texts]:
        if part.get("vocab_size", object()) == before or (before is None and part is texts[0]):
            part["vocab_size"] = max(n_rows.values())
    module = build_module(path, grown)
    for name, expected in n_rows.items():
        found = find_module(module, name).weight.shape[0]
        if found != expected:
            msg = (
                f"{KEY}: with {expected} tokens mlx-vlm would give {name} {found} rows, so that no folder of the model "
                "could be written; leave it out"
            )
            raise ModelError(msg)
    return grown


def write_tokenizer(tokenizer: Any, tokens: Sequence[str], folder: Path) -> None:
    """Add tokens to the tokenizer of a model's folder.

    Args:
        tokenizer: Has the tokens.
        tokens: Tokens that the folder's tokenizer may lack.
        folder: A copy of the model's files; only the tokens are changed.
    """
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not file.is_file():
        tokenizer.save_pretrained(folder)
        return
    written = Tokenizer.from_file(str(file))
    fresh = [token for token in tokens if written.token_to_id(token) is None]
    written.add_tokens([AddedToken(token, normalized=False, special=False) for token in fresh])
    vocabulary = tokenizer.get_vocab()
    if any(written.token_to_id(token) != vocabulary[token] for token in tokens):
        # The folder may have tokens that its tokenizer.json does not contain.
        tokenizer.save_pretrained(folder)
        return
    written.save(str(file))
    found = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    if "added_tokens_decoder" in found:
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
        found["added_tokens_decoder"] |= {str(vocabulary[token]): {"content": token, **flags} for token in fresh}
        settings.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Restore a model's own layers in place of adapters while the `with` lasts."""
    layers = list(lora_layers(module))
    try:
        module.update_modules(tree_unflatten([(name, layer.linear) for name, layer in layers]))
        yield
    finally:
        module.update_modules(tree_unflatten(layers))
