"""Fingerprints of what makes features: settings, code and weights that matter are in them, and nothing else is."""

import functools
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from tests.training import make_trainable, picture
from vlora import format_sample
from vlora.models import (
    Encoder,
    features_fingerprint,
    find_model,
    load_processor,
    make_encoder,
)
from vlora.models.encode import fingerprint
from vlora.models.encode.fingerprint import preparation_fingerprint
from vlora.recipe.parse import parse_recipe
from vlora.recipe.schema import DataSection

CheckpointFactory = Callable[[str], Path]


EncoderFactory = Callable[..., Encoder]


def image_keys(encode: Encoder, *images: Any) -> tuple[str, ...]:
    """Encode a row with some images; their keys."""
    row = {"images": list(images), "question": "What is it?", "answer": "a red square"}
    return encode.with_image_keys()(format_sample(row, "row 0")).image_keys


def test_keys_are_of_the_content(encoder: EncoderFactory, tmp_path: Path) -> None:
    """Another file under the same path is another image; the same one under another path is not."""
    encode = encoder("qwen2_vl")
    path, copy = tmp_path / "a.png", tmp_path / "b.png"
    picture(48, 32, 1).save(path)
    copy.write_bytes(path.read_bytes())
    before = image_keys(encode, str(path))
    assert image_keys(encode, str(copy)) == before
    assert image_keys(encode, {"bytes": copy.read_bytes(), "path": None}) == before
    assert image_keys(encode, str(path), str(copy)) == 2 * before
    picture(48, 32, 2).save(path)

    assert image_keys(encode, str(path)) != before
    assert image_keys(encode, picture(48, 32, 1)) == image_keys(encode, picture(48, 32, 1))
    assert image_keys(encode, picture(48, 32, 1)) != image_keys(encode, picture(48, 32, 2))
    # The same bytes in another shape.
    flat = np.zeros((32, 48, 3), dtype=np.uint8)
    wide, tall = (Image.fromarray(flat.reshape(shape)) for shape in ((32, 48, 3), (48, 32, 3)))
    assert image_keys(encode, wide) != image_keys(encode, tall)


@pytest.mark.parametrize(
    "data", [{"max_pixels": 28 * 28 * 2}, {"image_resize_shape": (56, 56)}, {"image_resize_shape": (84, 56)}]
)
@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_keys_are_of_the_preparation(family: str, data: dict[str, Any], encoder: EncoderFactory) -> None:
    """The recipe's sizes are in them."""
    assert image_keys(encoder(family, **data), picture(48, 32)) != image_keys(encoder(family), picture(48, 32))


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "gemma3", "mllama"])
def test_keys_are_of_the_processors_settings(
    family: str, encoder: EncoderFactory, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """One number of the processor's own configuration changed; and the same ones read again give the same keys."""
    keys = []
    for name, changes in (("same", {}), ("other", {"image_mean": [0.4, 0.5, 0.6]})):
        folder = tmp_path / name
        shutil.copytree(checkpoint(family), folder)
        file = folder / "preprocessor_config.json"
        file = file if file.exists() else folder / "processor_config.json"
        settings = json.loads(file.read_text())
        settings.get("image_processor", settings).update(changes)
        file.write_text(json.dumps(settings))
        recipe = parse_recipe("", {"model.path": str(folder), "data.path": "x"})
        files = find_model(recipe.model)
        encode = make_encoder(load_processor(files, recipe.model), files.config, files.family, recipe.data)
        keys.append(image_keys(encode, picture(48, 32)))

    assert keys[0] == image_keys(encoder(family), picture(48, 32))
    assert keys[1] != keys[0]


class Slotted:
    """Settings in slots."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        """Set one."""
        self.size = size


def test_settings_count_wherever_they_are_kept() -> None:
    """In attributes, slots, bound arguments, arrays, nested; addresses do not count, nor do rings."""

    def made(size: Any = 1, **changes: Any) -> Any:
        inner = SimpleNamespace(size=size, dtype=np.dtype("float32"), pattern=re.compile("a"), made=object())
        outer = SimpleNamespace(image_processor=inner, slots=Slotted(3), bound=functools.partial(min, 1), mean=[0.5])
        inner.outer = outer
        for name, value in changes.items():
            setattr(outer, name, value)
        return outer

    def digest(processor: Any) -> str:
        return preparation_fingerprint(processor, DataSection(path="x"), None)

    base = digest(made())
    changes = [
        made(2),
        made(np.array([1, 2])),
        made(np.array([1, 3])),
        made(slots=Slotted(4)),
        made(bound=functools.partial(min, 2)),
        made(bound=functools.partial(max, 1)),
        made(mean=[0.5, 0.6]),
        made(mean={"a": {1}}),
        made(mean=mx.array([1.0])),
        made(mean=re.compile("b")),
    ]

    assert digest(made()) == base
    assert len({base, *map(digest, changes)}) == 1 + len(changes)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "mllama"])
def test_the_folder_is_of_the_weights(family: str, checkpoint: CheckpointFactory) -> None:
    """One weight of the tower changed is another folder; the language model's own do not matter."""
    subject = make_trainable(checkpoint(family))
    backbone = subject.backbone

    def digest(config: dict[str, Any]) -> str:
        return features_fingerprint(backbone.module, backbone.feature_weights(), config)

    before = digest({"a": 1})
    params = dict(tree_flatten(backbone.module.parameters()))
    weights = backbone.feature_weights()
    own = next(name for name in weights if not backbone.is_language(name))
    others = [name for name in params if name not in weights]
    assert all(backbone.is_language(name) for name in others)
    assert digest({"a": 1}) == before
    assert digest({"a": 2}) != before
    backbone.module.load_weights([(others[0], params[others[0]] + 1)], strict=False)
    assert digest({"a": 1}) == before
    changed = np.array(params[own])
    changed.flat[0] += 1
    backbone.module.load_weights([(own, mx.array(changed))], strict=False)
    assert digest({"a": 1}) != before
    assert any("embed_tokens" in name for name in weights) == (family != "qwen3_vl")


def test_the_folder_is_of_the_code(checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line changed in any module that features go through is another folder, whatever its version says."""
    backbone = make_trainable(checkpoint("qwen3_vl")).backbone
    read = Path.read_bytes

    def digest() -> str:
        fingerprint._code.cache_clear()
        return features_fingerprint(backbone.module, backbone.feature_weights(), {})

    before = digest()
    family = ("mlx_vlm.models.qwen3_vl.vision", "mlx_vlm.models.qwen3_vl.config", "mlx_vlm.models.base")
    for name in ("vlora.ops.cpu_exp", "vlora.models.backbone.grid_tower", "mlx.nn.layers.linear", *family):
        changed = Path(str(sys.modules[name].__file__))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda path, changed=changed: read(path) + b"#" * (path == changed))
            assert digest() != before, name
    assert digest() == before
    monkeypatch.setenv("MLX_ENABLE_TF32", "another")
    assert digest() != before


def test_preparation_is_of_the_processors_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own file, and of those of the classes above it and of its parts."""
    part = SimpleNamespace(image_processor=Slotted(1))
    before = preparation_fingerprint(part, DataSection(path="x"), None)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == Path(__file__).name))
    assert preparation_fingerprint(part, DataSection(path="x"), None) != before
