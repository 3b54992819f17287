"""The families that have a checkpoint in tests/checkpoints: rows are written by their own processors."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from tests.checkpoints import FAMILIES as CHECKPOINTS
from tests.checkpoints.layout import make_config, write_files
from tests.training import rows_for
from vlora import Example, format_sample, models
from vlora.models.families.registry import describe_family
from vlora.models.load import loading
from vlora.recipe.schema import DataSection, ModelSection

from .tiny import TinyFamily

_LAST_BUT_ONE = {
    r"vision_tower\..*\.layers\.1\.": "the features are those of the last layer but one",
    r"vision_tower\..*\.post_layernorm\.": "the features are taken before it",
}
_BEFORE_NORM = {r"vision_tower\..*\.post_layernorm\.": "the features are taken before it"}
_IDLE: Mapping[str, Mapping[str, str]] = {
    "llava": _LAST_BUT_ONE,
    "llava_next": _LAST_BUT_ONE,
    "llava_onevision": _BEFORE_NORM,
    "aya_vision": _BEFORE_NORM,
    "deepseek_vl_v2": {r"\.attn_pool\.": "the features are those of the patches, not the pooled ones"},
    "lfm2_vl": {r"vision_tower\..*\.k_proj\.bias": "what is added to all keys changes no attention"},
    "qwen3_vl": {r"deepstack_merger_list\.1\.": "added behind the last layer, where only image tokens have it"},
}
"""Family to its parameters without gradient; see `TinyFamily`."""


def publish(name: str) -> TinyFamily:
    """Make a tiny family of a checkpoint: a model by its configuration, rows as the run's encoder writes them."""
    config = make_config(CHECKPOINTS[name])
    family = describe_family(config["model_type"])

    def rows(_: np.random.Generator) -> list[Example]:
        with tempfile.TemporaryDirectory() as folder:
            write_files(CHECKPOINTS[name], Path(folder))
            section = ModelSection(path=folder)
            files = models.find_model(section)
            processor = models.load_processor(files, section)
        data = DataSection(path="rows", train_on_completions=True)
        encode = models.make_encoder(processor, files.config, files.family, data)
        return [encode(format_sample(row, f"row {number}")) for number, row in enumerate(rows_for(files.family))]

    def prepare(model: nn.Module) -> None:
        loading.restore(model, family, config)
        weights = {name: v for name, v in tree_flatten(model.parameters()) if mx.issubdtype(v.dtype, mx.floating)}
        model.update(tree_unflatten(list(CHECKPOINTS[name].scaled(weights).items())))

    alone = "it reads images in every row" if family.format.is_prefix_lm else None
    return TinyFamily(config=config, rows=rows, idle=_IDLE.get(name, {}), prepare=prepare, without_text_rows=alone)


FAMILIES: Mapping[str, TinyFamily] = {name: publish(name) for name in CHECKPOINTS}
