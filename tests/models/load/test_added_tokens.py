"""Tokens that a recipe adds to a model: how their rows start, that they are learned, saved and read again."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer

from tests.arrays import load_arrays
from tests.families import FAMILIES, build
from tests.prove import model_type
from tests.runs import losses, reloaded_logits, trained_logits
from vlora import Recipe, fit, parse_recipe
from vlora.build import find_model, load_data, load_model
from vlora.errors import CheckpointError, ModelError, RecipeError
from vlora.events import Finished, Warned
from vlora.models import build_tiny_qwen3_vl, describe_family
from vlora.models.backbone.head import find_module
from vlora.models.load.added_tokens import Numbered, grow_tables
from vlora.models.load.loading import prepare
from vlora.models.load.tables import find_tables
from vlora.output.paths import output_paths
from vlora.recipe.schema import ModelSection

CheckpointFactory = Callable[[str], Path]

TOKENS = ["<place_7>", "Größe☃", "<place_8>", "<place_9>"]
"""Some as people write them, and one that a tokenizer of bytes would split."""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows of text with and without the tokens."""
    file = tmp_path / "rows.jsonl"
    answers = [f"at {TOKENS[0]}.", f"{TOKENS[1]}{TOKENS[0]}", "nowhere"]
    file.write_text("\n".join(json.dumps({"question": f"Where {TOKENS[1]}?", "answer": text}) for text in answers))
    return file


def make_recipe(model: Path, rows: Path, output: Path, **overrides: Any) -> Recipe:
    """Make a recipe that adds the tokens."""
    keys = {
        "model.path": str(model),
        "model.add_tokens": TOKENS,
        "data.path": str(rows),
        "data.train_on_completions": True,
        "data.shuffle": False,
        "optim.learning_rate": 1e-2,
        "train.batch_size": 3,
        "train.iters": 4,
        "output.path": str(output),
    }
    return parse_recipe("", keys | {name.replace("__", "."): value for name, value in overrides.items()})


def grown_by_hand(folder: Path, names: Sequence[str], first: int) -> tuple[nn.Module, Mapping[str, np.ndarray]]:
    """Load a model with mlx-vlm alone and append the mean of a table's rows to it, as transformers resizes one.

    Rows of padding, which transformers would leave as they are, are dropped first.
    """
    module, _ = mlx_vlm.load(str(folder))
    means = {}
    for name in names:
        table = find_module(module, name)
        means[name] = np.array(table.weight.astype(mx.float32))[:first].mean(axis=0)
        new = mx.array(np.tile(means[name], (len(TOKENS), 1))).astype(table.weight.dtype)
        table.weight = mx.concatenate([table.weight[:first], new])
    return module, means


@pytest.mark.parametrize(("family", "n_tables"), [("unpadded", 1), ("qwen3_vl", 1), ("idefics3", 2)])
def test_from_the_first_loss_to_mlx_vlm(
    family: str, n_tables: int, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """New rows start from the mean, tied or not; they are learned, and mlx-vlm loads what is written."""
    folder = build_tiny_qwen3_vl(tmp_path / "base") if family == "unpadded" else checkpoint(family)
    recipe = make_recipe(folder, rows, tmp_path / "out")
    data = load_data(recipe)
    backbone, config = load_model(recipe, data.files)
    assert backbone.head is not None
    names = list(dict.fromkeys([*find_tables(backbone), backbone.head.name]))
    assert len(names) == n_tables
    ids = [data.encoder.tokenizer.get_vocab()[token] for token in TOKENS]
    module, means = grown_by_hand(folder, names, ids[0])
    n_rows = len(find_module(module, names[0]).weight)
    assert ids == list(range(n_rows - len(TOKENS), n_rows))
    examples = [data.encoder(data.train[number]) for number in range(3)]
    counts = [[int((example.tokens == number).sum()) for number in ids[:2]] for example in examples]
    assert counts == [[1, 1], [1, 2], [0, 1]]
    for name in names:
        found = find_module(backbone.module, name).weight
        assert np.array_equal(np.array(found)[: ids[0]], np.array(find_module(module, name).weight)[: ids[0]])
        assert np.allclose(np.array(found)[ids], means[name], atol=1e-6)
    assert config["added_tokens"] == TOKENS

    events = list(fit(recipe))
    nll = n_learned = 0.0
    for example in examples:
        logits = module.language_model(mx.array(example.tokens)[None], mask=None, cache=None).logits[0]
        places = np.flatnonzero(example.supervised)
        found = nn.losses.cross_entropy(logits[mx.array(places - 1)], mx.array(example.tokens[places]))
        nll, n_learned = nll + float(found.sum()), n_learned + len(places)
    assert losses(events)[0] == pytest.approx(nll / n_learned, rel=1e-5)
    assert losses(events)[-1] < losses(events)[0]
    assert any(TOKENS[0] in event.message for event in events if isinstance(event, Warned))

    saved = load_arrays(tmp_path / "out" / "adapters.safetensors")
    for name in names:
        change = np.abs(np.array(saved[f"{name}.weight"])[ids] - means[name]).max(axis=1)
        assert (change > 1e-4)[:2].all()
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.model == str(output_paths(recipe).base)
    model, processor = mlx_vlm.load(finished.model, adapter_path=str(finished.adapter))
    tokenizer = getattr(processor, "tokenizer", processor)
    assert [tokenizer.encode(token, add_special_tokens=False)[-1] for token in TOKENS] == ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "".join(TOKENS)
    batch, expected = trained_logits(recipe)
    for row, wanted in zip(reloaded_logits(model, batch), expected, strict=True):
        np.testing.assert_allclose(row, wanted[: len(row)], atol=2e-4)


def test_goes_on_to_the_last_bit(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A run that was stopped ends as one that was not: adapter, tables and the model beside them."""
    whole, parts = (make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / name) for name in ("whole", "parts"))
    list(fit(whole))
    taken = 0

    def should_stop() -> bool:
        nonlocal taken
        taken += 1
        return taken >= 2

    assert losses(list(fit(parts, should_stop=should_stop)))
    assert losses(list(fit(parts, resume=True)))
    for name in (
        "adapters.safetensors",
        "adapters-model/model.safetensors",
        "adapters-model/tokenizer.json",
        "adapters-model/config.json",
    ):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_an_adapter_brings_its_tokens(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Going on from an adapter its tokens need not be named, others may be added; on the model beside it, too."""
    options: dict[str, Any] = {"model__add_tokens": TOKENS[:1]}
    rows.write_text(rows.read_text().replace("Gr\\u00f6\\u00dfe\\u2603", "size"))
    first = losses(list(fit(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "a", **options))))
    options = {"model__adapter_path": str(tmp_path / "a"), "train__iters": 1}
    for number, (model, tokens) in enumerate(
        [(checkpoint("qwen3_vl"), []), (checkpoint("qwen3_vl"), TOKENS), (tmp_path / "a" / "adapters-model", [])]
    ):
        recipe = make_recipe(model, rows, tmp_path / f"b{number}", model__add_tokens=tokens, **options)
        events = list(fit(recipe))
        assert losses(events)[0] < first[-1] < first[0]
        named = json.loads((tmp_path / f"b{number}" / "adapter_config.json").read_text())["added_tokens"]
        assert named == (tokens or TOKENS[:1])


def test_a_link_in_the_place_of_the_model_is_not_followed(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """What a run that goes on would write to a folder elsewhere is refused."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", train__iters=1)
    list(fit(recipe))
    (tmp_path / "out" / "adapters-model").rename(tmp_path / "elsewhere")
    (tmp_path / "out" / "adapters-model").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="adapters-model: is a link"):
        list(fit(recipe, resume=True))


def test_full_fine_tuning_writes_them(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """The model that full fine-tuning writes has the tokens, in its tokenizer and in its tables."""
    options = {"data__valid_path": str(rows), "eval__answer_rows": 1, "eval__max_new_tokens": 4}
    options |= {"model__full_finetune": True, "train__iters": 2}
    list(fit(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **options)))
    model, processor = mlx_vlm.load(str(tmp_path / "out"))
    number = processor.tokenizer.convert_tokens_to_ids(TOKENS[-1])
    assert model.language_model.model.embed_tokens.weight.shape[0] == number + 1


def test_quantized_tables_are_unpacked(rows: Path, tmp_path: Path) -> None:
    """On a quantized base the tables are unpacked and trained, and the model that is written says so."""
    base = build_tiny_qwen3_vl(tmp_path / "base")
    quantized = tmp_path / "quantized"
    mlx_vlm.convert(str(base), mlx_path=str(quantized), quantize=True, q_bits=8, q_group_size=64)
    recipe = make_recipe(quantized, rows, tmp_path / "out", train__iters=2)
    list(fit(recipe))
    model, _ = mlx_vlm.load(str(tmp_path / "out" / "adapters-model"), adapter_path=str(tmp_path / "out"))
    modules = dict(model.named_modules())
    assert type(modules["language_model.model.embed_tokens"]) is nn.Embedding
    assert any(isinstance(part, nn.QuantizedLinear) for part in modules.values())
    batch, expected = trained_logits(recipe)
    for row, wanted in zip(reloaded_logits(model, batch), expected, strict=True):
        np.testing.assert_allclose(row, wanted[: len(row)], atol=2e-3)


def test_tokens_that_only_the_tokenizer_has(rows: Path, tmp_path: Path) -> None:
    """A token that the tokenizer knows and the model does not keeps its id and gets a row."""
    model = build_tiny_qwen3_vl(tmp_path / "base")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    n_rows = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(TOKENS[0], special=True, normalized=False)])
    tokenizer.save(str(model / "tokenizer.json"))
    recipe = make_recipe(model, rows, tmp_path / "out", train__iters=1)
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    assert data.encoder.tokenizer.convert_tokens_to_ids(TOKENS) == list(range(n_rows, n_rows + 4))
    assert backbone.vocabulary().n_read == n_rows + 4
    list(fit(recipe))
    written = Tokenizer.from_file(str(tmp_path / "out" / "adapters-model" / "tokenizer.json"))
    assert [written.token_to_id(token) for token in TOKENS] == list(range(n_rows, n_rows + 4))


def test_rows_of_a_padded_table(rows: Path, tmp_path: Path) -> None:
    """Where a table has more rows than the tokenizer has tokens it keeps its length; the new rows start the same."""
    base = build_tiny_qwen3_vl(tmp_path / "base")
    weights = load_arrays(base / "model.safetensors")
    name = "language_model.model.embed_tokens.weight"
    n_rows = weights[name].shape[0]
    weights[name] = mx.concatenate([weights[name], mx.full((8, weights[name].shape[1]), 9.0)])
    mx.save_safetensors(str(base / "model.safetensors"), weights, metadata={"format": "mlx"})
    config = json.loads((base / "config.json").read_text())
    config["vocab_size"] = config["text_config"]["vocab_size"] = n_rows + 8
    (base / "config.json").write_text(json.dumps(config))
    backbone, _ = load_model(recipe := make_recipe(base, rows, tmp_path / "out"), find_model(recipe))
    found = np.array(find_module(backbone.module, find_tables(backbone)[0]).weight)
    assert found.shape[0] == n_rows + 8
    assert np.allclose(found[n_rows : n_rows + 4], found[:n_rows].mean(axis=0), atol=1e-6)
    assert (found[n_rows + 4 :] == 9).all()


def test_shapes_without_weights(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A plan sees the parameters that a run trains."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out")
    blank, real = (load_model(recipe, find_model(recipe), is_abstract=is_abstract)[0] for is_abstract in (True, False))

    def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in tree_flatten(module.trainable_parameters())}

    assert shapes(blank.module) == shapes(real.module)


def test_earlier_runs_are_set_aside_whole(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """The model beside an adapter goes where the adapter goes."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", train__iters=1)
    list(fit(recipe))
    before = (tmp_path / "out" / "adapters-model" / "model.safetensors").read_bytes()
    list(fit(parse_recipe("", {**_flat(recipe), "train.seed": 1})))
    assert (tmp_path / "out" / "earlier-1" / "adapters-model" / "model.safetensors").read_bytes() == before
    assert (tmp_path / "out" / "adapters-model" / "model.safetensors").read_bytes() != before


def test_the_model_that_training_starts_from_stays(rows: Path, tmp_path: Path) -> None:
    """A base where the enlarged model would be written is refused; one that nothing is written over is not moved."""
    base = build_tiny_qwen3_vl(tmp_path / "out" / "adapters-model")
    recipe = make_recipe(base, rows, tmp_path / "out", train__iters=1)
    with pytest.raises(RecipeError, match=r"output\.path: .* from which training starts"):
        find_model(recipe)
    (tmp_path / "out" / "metrics.jsonl").write_text("{}\n")
    plain = make_recipe(base, rows, tmp_path / "out", train__iters=1, model__add_tokens=[])
    rows.write_text(json.dumps({"question": "Where?", "answer": "here"}))
    assert isinstance(list(fit(plain))[-1], Finished)
    assert (tmp_path / "out" / "earlier-1" / "metrics.jsonl").is_file()
    assert (base / "config.json").is_file()


def test_ids_of_images_are_not_given_away(rows: Path, tmp_path: Path) -> None:
    """An id beyond the tokenizer's that stands for images in the model is no new token's."""
    base = build_tiny_qwen3_vl(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["video_token_id"] = config["vocab_size"] + 1
    (base / "config.json").write_text(json.dumps(config))
    recipe = make_recipe(base, rows, tmp_path / "out")
    with pytest.raises(ModelError, match=rf"model\.add_tokens: '{TOKENS[1]}' would get the id \d+.*video_token_id"):
        load_model(recipe, find_model(recipe))


NOT_ENLARGED = {
    "florence2",
    "jina_vlm",
    "molmo",
    "molmo2",
    "molmo_point",
    "nemotron_h_nano_omni",
    "nemotron_parse",
    "prism_hadamard_qwen35",
}
"""Families with token embeddings of their own kind, or with several tables."""


@pytest.mark.families
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_enlarged_or_refused(family: str) -> None:
    """The head of an enlarged model is where it was, and gives its logits at selected places; or a sentence says no."""
    described = describe_family(model_type(family))
    backbone, _ = prepare(build(FAMILIES[family]), described, ModelSection(path=family))
    tables, head = find_tables(backbone), backbone.head
    n_rows = find_module(backbone.module, tables[0]).weight.shape[0] if tables else 0
    numbered = Numbered({"<a>": n_rows + 2, "<b>": n_rows + 3}, frozenset())
    if family in NOT_ENLARGED:
        with pytest.raises(ModelError, match=r"model\.add_tokens: this family's"):
            grow_tables(backbone, numbered)
        return
    grow_tables(backbone, numbered)
    backbone.detect_head()
    assert backbone.head == head
    assert backbone.vocabulary().n_written == n_rows + 4


def _flat(recipe: Recipe) -> dict[str, Any]:
    keys = ("model.path", "data.path", "data.shuffle", "train.batch_size", "train.iters", "output.path")
    found = {key: getattr(getattr(recipe, key.split(".")[0]), key.split(".")[1]) for key in keys}
    return {**found, "model.add_tokens": TOKENS}


@pytest.mark.parametrize("tokens", [[""], ["  "], ["<a>", "<b>", "<a>"], ["\ud800"]])
def test_what_is_no_list_of_tokens(tokens: list[str]) -> None:
    """Empty tokens, tokens that stand there twice, and such as cannot be written are refused with the recipe."""
    with pytest.raises(RecipeError, match=r"model\.add_tokens.*has the token"):
        parse_recipe("", {"data.path": "x", "model.add_tokens": tokens})


def test_tokens_that_are_there(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A token that the model has would lose what it has learned: nothing of it is enlarged."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", model__add_tokens=["<|im_end|>"])
    with pytest.raises(ModelError, match=r"model\.add_tokens: '<.im_end.>' is a token of the model already \(\d+\)"):
        load_model(recipe, find_model(recipe))


def test_not_on_what_is_quantized_here(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Quantizing on loading and training the tables exclude one another."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", model__quantize_bits=4)
    with pytest.raises(ModelError, match=r"model\.quantize_bits: found 4 together with added tokens"):
        find_model(recipe)
