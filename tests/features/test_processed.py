"""Rows that are remembered: the processor does not run again, and nobody can tell."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.features.test_cache import finished, rows_file
from tests.runs import losses, make_recipe, run
from tests.training import Trainable, make_trainable, mixed_rows, picture
from vlora import Example, collate, format_sample
from vlora.features.processed import DeferredInputs, Processed
from vlora.models import Encoder, FeatureCache, ProcessedCache, ShardStore, find_model, load_processor, make_encoder

CheckpointFactory = Callable[[str], Path]
FAMILIES = ["qwen3_vl", "qwen2_vl", "llava", "mllama", "gemma3", "deepseek_vl_v2", "paligemma", "pixtral"]


@attrs.frozen(eq=False)
class Counting(ProcessedCache):
    """Counts how often a processor ran."""

    calls: list[str] = attrs.field(factory=list)

    def get_or_compute(self, key: str, make: Callable[[], Processed]) -> Processed:
        """Count the calls of `make`."""

        def counted() -> Processed:
            self.calls.append(key)
            return make()

        return super().get_or_compute(key, counted)


class Counted:
    """An encoder that remembers, and how often its processor ran."""

    def __init__(self, subject: Trainable, cache: FeatureCache) -> None:
        files = find_model(subject.recipe.model)
        processor = load_processor(files, subject.recipe.model)
        self.memory = Counting(cache, subject.backbone.has_features)
        encoder = make_encoder(processor, files.config, files.family, subject.recipe.data)
        self.encoder = encoder.with_image_keys(self.memory)

    def __call__(self, row: dict[str, Any]) -> Example:
        """Encode a row."""
        return self.encoder(format_sample(row, "row"))

    @property
    def n_calls(self) -> int:
        """How often the processor ran."""
        return len(self.memory.calls)


def rows_of(family: str) -> list[dict[str, Any]]:
    """Rows with images that the family reads."""
    if family == "paligemma":
        return [
            {"image": picture(48, 32, 1), "prefix": "What is it?", "suffix": "a red square"},
            {"images": [picture(48, 32, 2), picture(32, 64, 3)], "prefix": "How many?", "suffix": "three"},
        ]
    return mixed_rows()[:2]


def assert_same(found: Example, expected: Example) -> None:
    """Compare two examples, all inputs included."""
    for name in ("tokens", "supervised", "placeholders"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.image_sizes == expected.image_sizes
    assert found.image_keys == expected.image_keys
    assert list(found.inputs) == list(expected.inputs)
    for name, value in expected.inputs.items():
        own = found.inputs[name]
        parts = zip(own, value, strict=True) if isinstance(value, list) else [(own, value)]
        assert all(np.array_equal(one, other) for one, other in parts), name


def embed(subject: Trainable, examples: list[Example]) -> list[tuple[str, mx.array]]:
    """Embed rows together."""
    fields = subject.backbone.embed(collate(examples))
    mx.eval(fields)
    return sorted(tree_flatten(fields))


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_processor_runs_once(family: str, on_disk: bool, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The second time rows are whole without it, in another run too, and their features the same."""
    subject = make_trainable(checkpoint(family))
    rows = rows_of(family)

    def opened() -> tuple[FeatureCache, Counted]:
        shards = ShardStore(tmp_path, "a" * 40, 10**9) if on_disk else None
        cache = FeatureCache(0 if on_disk else 10**8, shards)
        subject.backbone.keep_features(cache)
        return cache, Counted(subject, cache)

    cache, encode = opened()
    first = [encode(row) for row in rows]
    n_first = encode.n_calls
    expected = embed(subject, first)
    if on_disk:
        cache.flush()
        cache, encode = opened()
        n_first = 0
    second = [encode(row) for row in rows]
    found = embed(subject, second)

    assert all(isinstance(example.inputs, DeferredInputs) for example in second)
    assert encode.n_calls == n_first
    assert all(mx.array_equal(value, wanted) for (_, value), (_, wanted) in zip(found, expected, strict=True))
    # Asked for after all, the pixels are made.
    for own, other in zip(second, first, strict=True):
        assert_same(own, other)
    assert encode.n_calls == n_first + len(rows)


def test_rows_without_features_are_encoded_whole(checkpoint: CheckpointFactory) -> None:
    """A row is remembered when it is encoded, its features are there only once the tower ran."""
    subject = make_trainable(checkpoint("qwen2_vl"))
    cache = FeatureCache(10**8)
    subject.backbone.keep_features(cache)
    encode = Counted(subject, cache)
    row = mixed_rows()[0]
    first, second = encode(row), encode(row)

    assert isinstance(second.inputs, dict)
    assert_same(second, first)


def test_other_texts_and_images_are_other_rows(checkpoint: CheckpointFactory) -> None:
    """The features of an image serve another question; its tokens have to be made."""
    subject = make_trainable(checkpoint("qwen2_vl"))
    cache = FeatureCache(10**8)
    subject.backbone.keep_features(cache)
    encode = Counted(subject, cache)
    row = mixed_rows()[0]
    embed(subject, [encode(row)])
    encode(row)
    n_before = encode.n_calls
    other = encode({**row, "question": "Where is it?"})
    embed(subject, [other])
    assert encode.n_calls == n_before + 1
    assert cache.counts.n_computed == 1
    encode({**row, "image": picture(48, 32, 9)})
    assert encode.n_calls == n_before + 2
    encode({**row, "image": picture(64, 64, 9)})
    assert encode.n_calls == n_before + 3


def test_pixels_are_made_when_features_are_gone(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A shard that vanishes between encoding and embedding costs a run of processor and tower, no more."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    cache = FeatureCache(0, ShardStore(tmp_path, "a" * 40, 10**9))
    subject.backbone.keep_features(cache)
    encode = Counted(subject, cache)
    rows = rows_of("qwen3_vl")
    expected = embed(subject, [encode(row) for row in rows])
    cache.flush()
    examples = [encode(row) for row in rows]
    n_before = encode.n_calls
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    found = embed(subject, examples)

    assert encode.n_calls == n_before + len(rows)
    assert all(mx.array_equal(value, wanted) for (_, value), (_, wanted) in zip(found, expected, strict=True))


def test_deferred_inputs_are_a_mapping() -> None:
    """Names, length and absent names do not run the processor; a large input runs it once."""
    n_calls = 0

    def make() -> Processed:
        nonlocal n_calls
        n_calls += 1
        return Processed(np.zeros(0, np.int32), {"pixel_values": 1, "grid": 2, "more": 3}, ())

    subject = DeferredInputs(("pixel_values", "grid", "more"), {"grid": 2}, make)

    assert (list(subject), len(subject), "grid" in subject) == (["pixel_values", "grid", "more"], 3, True)
    assert subject.get("image_grid_thw") is None
    assert subject["grid"] == 2
    assert n_calls == 0
    assert dict(subject) == {"pixel_values": 1, "grid": 2, "more": 3}
    assert n_calls == 1


def test_threads_share_a_memory(tmp_path: Path) -> None:
    """Rows recalled by several threads while shards are written are right, whoever was first."""
    cache = FeatureCache(0, ShardStore(tmp_path, "a" * 40, 10**9))
    subject = ProcessedCache(cache, lambda _: True)
    stopped = threading.Event()

    def get_or_compute(number: int) -> Processed:
        tokens = np.full(50, number % 40, dtype=np.int32)
        return subject.get_or_compute(
            f"row {number % 40}", lambda: Processed(tokens, {"grid": tokens[:3]}, ((number % 40, 2),))
        )

    def numbers() -> Iterator[int]:
        yield from range(2000)
        stopped.set()

    with ThreadPoolExecutor(4) as pool:
        found = pool.map(get_or_compute, numbers())
        while not stopped.is_set():
            cache.flush()
        for number, row in enumerate(found):
            assert (row.tokens == number % 40).all()
            assert (row.inputs["grid"] == number % 40).all()
            assert row.image_sizes == ((number % 40, 2),)
    assert not cache.drain_warnings()


@pytest.mark.parametrize("family", ["qwen3_vl", "llava"])
def test_a_second_run_reads_no_pixels(
    family: str, checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole runs: where the first has kept all, the second decodes no image, and learns the same."""
    rows = rows_file(tmp_path)
    first = run(make_recipe(checkpoint(family), rows, tmp_path / "first", features__path=str(tmp_path / "kept")))

    def refuse(*_: Any, **__: Any) -> None:
        msg = "an image was decoded"
        raise AssertionError(msg)

    # The question that is shown at the end has an image, which is opened for it.
    decode = Encoder._decode
    monkeypatch.setattr(
        Encoder,
        "open_images",
        lambda self, sample, n=None: [decode(self, found, sample.source) for found in self._read_images(sample, n)],
    )
    monkeypatch.setattr(Encoder, "_decode", refuse)
    second = run(make_recipe(checkpoint(family), rows, tmp_path / "second", features__path=str(tmp_path / "kept")))

    assert losses(first) == losses(second)
    counts = finished(second).features
    assert counts is not None
    assert counts.n_computed == 0
