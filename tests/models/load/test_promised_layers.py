"""Layers that the configuration of an adapter promises are told from those that it does not speak of."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from tests.arrays import load_arrays
from tests.export.adapters import write_adapter
from tests.families import FAMILIES, build
from vlora import models
from vlora.adapters.attached import lora_layers
from vlora.errors import CheckpointError
from vlora.models.load.promised_layers import find_missing_layer, unread_layers
from vlora.recipe.schema import ModelSection

MODEL = [f"text.layers.{depth}.{name}" for depth in range(3) for name in ("attn.q_proj", "attn.k_proj", "mlp.up_proj")]
TOWER = [f"tower.blocks.{depth}.attn.q_proj" for depth in range(2)]
ATTENTION = [name for name in MODEL if "attn" in name]
KEYS = ("attn.q_proj", "attn.k_proj")


@pytest.mark.parametrize(
    ("lacking", "listed", "n_last", "expected"),
    [
        ((), KEYS, -1, None),
        (("text.layers.1.attn.k_proj",), KEYS, -1, "text.layers.1.attn.k_proj"),
        (("text.layers.1.attn.k_proj",), (), None, "text.layers.1.attn.k_proj"),
        (("layers.0.",), (), 2, None),
        (("layers.0.",), (), 3, "text.layers.0.attn.q_proj"),
        (("layers.0.", "layers.2."), KEYS, 1, "text.layers.2.attn.q_proj"),
        (("k_proj",), KEYS, 16, "text.layers.0.attn.k_proj"),
        (("k_proj",), ("q_proj", "none"), -1, None),
        (("k_proj",), (), -1, None),
    ],
)
def test_a_promised_layer_is_named(
    lacking: Sequence[str], listed: Sequence[str], n_last: int | None, expected: str | None
) -> None:
    """By a list of ends, or where others of its kind are there, in as many layers as are promised; never a tower's."""
    adapted = [name for name in ATTENTION if not any(part in name for part in lacking)]
    assert find_missing_layer(adapted, [*TOWER, *MODEL], listed, n_last) == expected


def test_keys_that_are_shared_are_not_read() -> None:
    """Gemma 3n's last layers have projections of their own, which nothing reads."""
    assert unread_layers(nn.Linear(2, 2)) == set()
    unread = unread_layers(build(FAMILIES["gemma3n"]))
    assert {name.rpartition(".")[2] for name in unread} == {"k_proj", "v_proj"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of vlora's: DoRA of queries and values, and trained embeddings."""
    return write_adapter(
        tmp_path_factory.mktemp("whole"), targets=("q_proj", "v_proj"), rank=2, method="dora", train_embeddings=True
    )


@pytest.mark.parametrize("names", ["mlx-lm", "vlora"])
@pytest.mark.parametrize("end", ["layers.0.self_attn.v_proj", "layers.1.", "q_proj.m", "embed_tokens.weight"])
def test_adapters_that_lack_what_they_promise_are_refused(whole: Path, tmp_path: Path, names: str, end: str) -> None:
    """A layer, all of a depth, the lengths of DoRA, and a table; the model has no adapter afterwards."""
    arrays = load_arrays(whole / "adapters.safetensors")
    config: dict[str, Any] = json.loads((whole / "adapter_config.json").read_text())
    kept = {name: value for name, value in arrays.items() if end not in name}
    assert kept.keys() < arrays.keys()
    if names == "mlx-lm":
        kept = {name.removeprefix("language_model."): value for name, value in kept.items()}
        config["lora_parameters"] |= {"keys": ["self_attn.q_proj", "self_attn.v_proj"]}
        config["num_layers"] = 2
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), kept)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    section = ModelSection(path=str(whole.parent / "model"))
    files = models.find_model(section)
    backbone, _ = models.abstract_backbone(files, section)
    with pytest.raises(CheckpointError, match=r"was not written whole|does not fit the model at") as raised:
        models.load_adapter(backbone, tmp_path, files=files)
    assert "\n" not in str(raised.value)
    assert list(lora_layers(backbone.module)) == []


@pytest.mark.parametrize("listed", ["language_model.model.layers.5.mlp.up_proj", "model.layers.0.self_attn.x_proj"])
def test_a_listed_layer_that_the_model_lacks_is_refused(whole: Path, tmp_path: Path, listed: str) -> None:
    """A configuration that names one layer by its number, of another model or a damaged one."""
    config: dict[str, Any] = json.loads((whole / "adapter_config.json").read_text())
    config.pop("adapted_layers", None)
    names = [name.removesuffix(".lora_a") for name in load_arrays(whole / "adapters.safetensors") if "lora_a" in name]
    config["lora_parameters"]["keys"] = [*names, listed]
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), load_arrays(whole / "adapters.safetensors"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    section = ModelSection(path=str(whole.parent / "model"))
    files = models.find_model(section)
    backbone, _ = models.abstract_backbone(files, section)
    with pytest.raises(CheckpointError, match=f"lists {listed}, which the model does not have"):
        models.load_adapter(backbone, tmp_path, files=files)
    assert list(lora_layers(backbone.module)) == []
