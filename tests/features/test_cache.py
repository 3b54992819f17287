"""Features of images, kept: the same numbers as without, for the right image, and only while nothing changes them."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from tests.arrays import load_arrays
from tests.families import FAMILIES, build, examples
from tests.models.families.test_registry import REPRESENTATIVE, with_heavy_ones_marked
from tests.prove import model_type
from tests.runs import losses, make_recipe, run
from tests.training import Trainable, make_trainable, picture
from vlora import Example, collate, format_sample, make_eval_step, make_train_step
from vlora.cli.screen import Screen
from vlora.cli.sentences import describe_storage
from vlora.cli.train import train
from vlora.data.prefetch import WorkerPool
from vlora.events import Event, Finished, Reported, Started, Warned
from vlora.models import (
    FeatureCache,
    MlxVlmBackbone,
    ShardStore,
    describe_family,
    find_model,
    load_processor,
    make_encoder,
)
from vlora.models.backbone.embed import embed_row
from vlora.models.load.loading import prepare
from vlora.recipe.schema import ModelSection
from vlora.system.cache import cache_folder

CheckpointFactory = Callable[[str], Path]


BATCHES = ((0, 1), (1, 2), (0, 2), (1,), (1, 0))
"""Rows in changing company; the last two have one image, two of other sizes, none."""


def kept_on(folder: Path, memory: int = 10**8, **options: Any) -> FeatureCache:
    """Make a cache in memory and in a folder."""
    return FeatureCache(memory, ShardStore(folder, "a" * 40, 10**9, **options))


def embedded(subject: Trainable) -> list[list[tuple[str, mx.array]]]:
    """Embed the rows in all their batches; all the fields by name."""
    found = []
    for numbers in BATCHES:
        fields = subject.backbone.embed(collate([subject.examples[number] for number in numbers], 2))
        mx.eval(fields)
        found.append(sorted(tree_flatten(fields)))
    return found


def assert_equal(found: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Compare what `embedded` gave, bit for bit unless told otherwise."""
    for own, other in zip(found, expected, strict=True):
        assert [name for name, _ in own] == [name for name, _ in other]
        for (name, value), (_, wanted) in zip(own, other, strict=True):
            assert value.dtype == wanted.dtype, name
            if tolerance and mx.issubdtype(value.dtype, mx.floating):
                assert mx.allclose(value, wanted, rtol=0, atol=tolerance), name
            else:
                assert mx.array_equal(value, wanted), name


@pytest.mark.parametrize(
    "family", ["qwen3_vl", "qwen2_vl", "llava", "mllama", "gemma3", "pixtral", "deepseek_vl_v2", "paligemma"]
)
def test_same_numbers_as_without(family: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """From the tower, from memory, from disk: equal fields, so that losses and gradients are equal too.

    Bit for bit, but where images of several rows go through the tower together: a product's last bits are another
    one's with more rows.
    """
    subject = make_trainable(checkpoint(family))
    plain = embedded(subject)
    first = kept_on(tmp_path)
    subject.backbone.keep_features(first)
    expected = embedded(subject)
    assert_equal(expected, plain, 1e-5 if subject.backbone.family.forward.has_grid_tower else 0.0)
    n_images = sum(len(example.image_keys) for example in subject.examples)
    assert first.counts.n_computed == n_images
    assert_equal(embedded(subject), expected)
    assert first.counts.n_computed == n_images
    first.flush()
    # Without memory: every time from the disk.
    second = kept_on(tmp_path, memory=0)
    subject.backbone.keep_features(second)
    assert_equal(embedded(subject), expected)

    assert (second.counts.n_computed, second.counts.n_memory) == (0, 0)
    assert second.counts.n_disk > n_images > 0


def kept_as_computed(name: str, folder: Path) -> None:
    """Check on a tiny family's rows that what is kept is what is computed, from memory and from disk."""
    tiny = FAMILIES[name]
    backbone, _ = prepare(build(tiny), describe_family(model_type(name)), ModelSection(path=name))
    rows = examples(tiny)
    n_images = [len(row.inputs.get("image_grid_thw", [0])) if row.inputs else 0 for row in rows]
    rows = [
        attrs.evolve(row, image_keys=tuple(f"{index} {number}" for number in range(count)))
        for index, (row, count) in enumerate(zip(rows, n_images, strict=True))
    ]

    def embed() -> list[list[tuple[str, mx.array]]]:
        together = [backbone.embed(collate(company)) for company in (rows, rows[::-1], rows[:1])]
        mx.eval(together)
        return [sorted(tree_flatten(fields)) for fields in together]

    plain = embed()
    first = kept_on(folder)
    backbone.keep_features(first)
    tolerance = 1e-4 if backbone.family.forward.has_grid_tower else 0.0
    assert_equal(embed(), plain, tolerance)
    assert (first.counts.n_computed, first.counts.n_memory > 0) == (sum(n_images), True)
    first.flush()
    second = kept_on(folder, memory=0)
    backbone.keep_features(second)
    assert_equal(embed(), plain, tolerance)
    assert (second.counts.n_computed, second.counts.n_disk > 0) == (0, True)
    assert backbone.has_features(rows[n_images.index(max(n_images))])
    backbone.keep_features(None)
    only_weights_in_the_key_count(backbone, rows)


def only_weights_in_the_key_count(backbone: MlxVlmBackbone, rows: list[Example]) -> None:
    """Change all weights that are not in the folder's key: what is kept stays as it was."""

    def kept() -> Any:
        if backbone.family.forward.has_grid_tower:
            grids = backbone._grids()
            return grids._features(rows, grids.lay_out(collate(rows)))
        return [embed_row(backbone.module, backbone.family, row) for row in rows]

    before = dict(tree_flatten(kept()))
    mx.eval(before)
    own = backbone.feature_weights()
    others = [
        (name, value + 1)
        for name, value in tree_flatten(backbone.module.parameters())
        if name not in own and mx.issubdtype(value.dtype, mx.floating)
    ]
    assert others
    backbone.module.load_weights(others, strict=False)
    backbone.keep_features(None)
    after = dict(tree_flatten(kept()))
    assert after.keys() == before.keys()
    assert all(mx.array_equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", with_heavy_ones_marked(REPRESENTATIVE))
def test_representative_families_features_are_kept(name: str, tmp_path: Path) -> None:
    """Whatever the language model takes of a row comes back as it was."""
    kept_as_computed(name, tmp_path)


@pytest.mark.families
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(REPRESENTATIVE)))
def test_every_familys_features_are_kept(name: str, tmp_path: Path) -> None:
    """The same for all families."""
    kept_as_computed(name, tmp_path)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_steps_are_the_same(family: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Losses of training and validation, and what was learned, with and without; compiled."""

    def learn(cache: FeatureCache | None) -> tuple[list[float], dict[str, mx.array]]:
        subject = make_trainable(checkpoint(family))
        subject.backbone.keep_features(cache)
        step = make_train_step(subject.backbone, subject.optimizer)
        eval_step = make_eval_step(subject.backbone)
        state, found = subject.state, []
        for numbers in ((0, 1), (1, 2), (0, 1)):
            batch = collate([subject.examples[number] for number in numbers])
            state, output = step(state, batch, 1e-2)
            found += [float(output.nll_sum), float(eval_step(state, batch)[0])]
        return found, state.params

    plain, expected = learn(None)
    with_cache, params = learn(kept_on(tmp_path))

    assert with_cache == pytest.approx(plain, rel=1e-6)
    assert all(mx.allclose(params[name], value, rtol=0, atol=1e-4) for name, value in expected.items())


def test_embeddings_may_be_trained_beside_kept_images(checkpoint: CheckpointFactory) -> None:
    """The Qwen-VL lineage keeps images, not rows: features do not depend on the table, and its gradient is whole."""

    def gradients(cache: FeatureCache | None) -> tuple[list[float], dict[str, mx.array]]:
        subject = make_trainable(checkpoint("qwen3_vl"), lora__train_embeddings=True, lora__targets=["q_proj"])
        assert subject.backbone.why_features_change() is None
        subject.backbone.keep_features(cache)
        step = make_train_step(subject.backbone, subject.optimizer)
        state, found = subject.state, []
        for _ in range(2):
            state, output = step(state, collate(subject.examples[:2]), 1e-2)
            found.append(float(output.nll_sum))
        return found, state.params

    cache = FeatureCache(10**8)
    plain, expected = gradients(None)
    with_cache, params = gradients(cache)

    assert with_cache == plain
    assert all(mx.array_equal(params[name], value) for name, value in expected.items())
    # Once each, though a step asks twice.
    assert (cache.counts.n_computed, cache.counts.n_memory) == (3, 3)


def test_the_default_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where $XDG_CACHE_HOME says, or else ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/vlora")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "vlora"


def test_only_arrays_are_kept(checkpoint: CheckpointFactory) -> None:
    """A row with a field that is no array is embedded every time."""
    subject = make_trainable(checkpoint("llava"))
    family = subject.backbone.family
    forward = attrs.evolve(
        family.forward, finish_inputs=lambda _, __, ___, inputs: {**inputs, "deepstack_visual_embeds": []}
    )
    subject.backbone.family = attrs.evolve(family, forward=forward)
    cache = FeatureCache(10**8)
    subject.backbone.keep_features(cache)
    for _ in range(2):
        subject.backbone.embed(collate(subject.examples[:1]))

    assert (cache.counts.n_computed, cache.counts.n_memory) == (2, 0)


def test_rows_differ_by_what_is_learned(checkpoint: CheckpointFactory) -> None:
    """The same tokens with other answers are another row: some families' fields say where answers are."""
    subject = make_trainable(checkpoint("llava"))
    example = subject.examples[0]
    more = attrs.evolve(example, supervised=~example.placeholders)
    cache = FeatureCache(10**8)
    subject.backbone.keep_features(cache)
    for row in (example, more, example):
        subject.backbone.embed(collate([row]))

    assert (cache.counts.n_computed, cache.counts.n_memory) == (2, 1)


def rows_file(folder: Path, n_rows: int = 5) -> Path:
    """Write rows with an image each, two with the same one."""
    lines = []
    for number in range(n_rows):
        picture(32 + 16 * (number % 2), 32, max(1, number)).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "question": f"What is {number}?", "answer": f"it is {number}"})
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def finished(events: list[Event]) -> Finished:
    """Give the last event."""
    (last,) = (event for event in events if isinstance(event, Finished))
    return last


@pytest.mark.parametrize("family", ["qwen3_vl", "llava"])
def test_a_second_run_computes_nothing(family: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Whole runs: the first keeps, the second finds all on disk; both learn what a run without learns."""
    rows = rows_file(tmp_path)
    options: dict[str, Any] = {"features__path": str(tmp_path / "kept"), "train__steps_per_eval": 100}
    options |= {"train__epochs": 2, "data__valid_path": str(rows)}
    first, second, plain = (
        run(make_recipe(checkpoint(family), rows, tmp_path / name, **{**options, **more}))
        for name, more in (("first", {}), ("second", {}), ("plain", {"features__cache": False}))
    )

    counts = [finished(events).features for events in (first, second)]
    assert losses(first) == losses(second)
    assert losses(second) == pytest.approx(losses(plain), rel=1e-5)
    assert counts[0] is not None
    assert counts[1] is not None
    assert finished(plain).features is None
    # Two rows have the same image: one entry where images are kept, two where rows are.
    assert 4 <= counts[0].n_computed <= 6
    assert counts[1].n_computed == 0
    assert counts[1].n_disk >= 4
    assert counts[1].disk_bytes > 0
    assert counts[0].n_memory + counts[0].n_disk + counts[0].n_computed == counts[1].n_memory + counts[1].n_disk


def test_metrics_say_where_features_came_from(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Since the last line, so that their sum is the images that were asked for."""
    recipe = make_recipe(
        checkpoint("qwen3_vl"),
        rows_file(tmp_path, 4),
        tmp_path / "out",
        features__path=str(tmp_path / "kept"),
        features__memory_gb=1,
        train__iters=6,
    )
    events = run(recipe)
    lines: list[dict[str, Any]] = [dict(event.metrics) for event in events if isinstance(event, Reported)]
    started = next(event for event in events if isinstance(event, Started))

    names = ("features_from_memory", "features_from_disk", "features_computed")
    assert [sum(line[name] for name in names) for line in lines] == [4, 4, 4]
    assert sum(line["features_computed"] for line in lines[1:]) == 0
    assert lines[-1]["features_memory_gb"] > 0
    assert describe_storage(started.features) == f"kept, up to 1 GB in memory and up to 20 GB in {tmp_path / 'kept'}"


def test_a_damaged_folder_does_not_stop_a_run(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """What is broken is computed again; the run says so, and learns the same."""
    rows = rows_file(tmp_path, 4)

    def go(name: str) -> list[Event]:
        recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / name, features__path=str(tmp_path / "kept"))
        return run(recipe)

    first = go("first")
    (file,) = (tmp_path / "kept").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    second = go("second")

    assert losses(second) == losses(first)
    assert [str(file) in event.message for event in second if isinstance(event, Warned)] == [True]
    counts = finished(second).features
    assert counts is not None
    assert counts.n_computed > 0


def test_a_changed_image_is_looked_at_again(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The same path, another picture: the next run learns from the new one, as if nothing had been kept."""
    rows = rows_file(tmp_path, 4)

    def go(name: str, **more: Any) -> list[Event]:
        options = {"features__path": str(tmp_path / "kept"), **more}
        return run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / name, **options))

    before = go("first")
    picture(32, 32, 99).save(tmp_path / "2.png")
    after, plain = go("second"), go("third", features__cache=False)

    assert losses(after) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(after) != pytest.approx(losses(before), rel=1e-5)
    counts = finished(after).features
    assert counts is not None
    assert counts.n_computed == 1


def test_partly_kept_batches_share_few_traces(checkpoint: CheckpointFactory) -> None:
    """However many images of a batch are left to the tower, it runs for one of few numbers of them."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    rows = [{"image": picture(32, 32, seed), "question": "What?", "answer": "it"} for seed in range(12)]
    files = find_model(subject.recipe.model)
    processor = load_processor(files, subject.recipe.model)
    encode = make_encoder(processor, files.config, files.family, subject.recipe.data).with_image_keys()
    examples_of_rows = [encode(format_sample(row, "row")) for row in rows]
    plain = subject.backbone.embed(collate(examples_of_rows))[0]["inputs_embeds"]
    shapes = set()
    for n_kept in range(1, 12):
        subject.backbone.keep_features(FeatureCache(10**8))
        subject.backbone.embed(collate(examples_of_rows[:n_kept]))
        tower = subject.backbone._grids()
        tower._traces.clear()
        found = subject.backbone.embed(collate(examples_of_rows))[0]["inputs_embeds"]
        assert len(tower._traces) == 1
        shapes |= set(tower._traces)

        assert mx.allclose(found, plain, rtol=0, atol=1e-5)
    assert {shape.n_bins for _, shape in shapes} == {1, 2, 3, 4, 6, 8, 12}


def test_features_are_read_ahead_of_their_batch(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """What workers have read is what embedding gets, without another look at the disk."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    batch = collate(subject.examples)
    subject.backbone.keep_features(kept_on(tmp_path, memory=0))
    expected = subject.backbone.embed(batch)[0]["inputs_embeds"]
    subject.backbone._features.flush()  # type: ignore[union-attr]
    later = kept_on(tmp_path, memory=0)
    subject.backbone.keep_features(later)
    with WorkerPool(2) as workers:
        prepared = list(workers.map(subject.backbone.prepare, subject.examples, 4))
    shutil.rmtree(tmp_path)

    found = subject.backbone.embed(collate(prepared))[0]["inputs_embeds"]

    assert later.counts.n_disk == 3
    assert later.counts.n_computed == 0
    assert mx.array_equal(found, expected)


def test_pixels_are_prepared_in_the_towers_type(checkpoint: CheckpointFactory) -> None:
    """Workers turn pixels into the tower's type, every picture once; embedding gives the same."""
    subject = make_trainable(checkpoint("qwen3_vl"))
    subject.backbone.module.vision_tower.set_dtype(mx.bfloat16)
    expected = subject.backbone.embed(collate(subject.examples))[0]["inputs_embeds"]
    with WorkerPool(2) as workers:
        prepared = list(workers.map(subject.backbone.prepare, subject.examples, 4))

    sizes = [example.inputs["pixel_values"].nbytes for example in prepared[:2]]
    assert [4 * size for size in sizes] == [row.inputs["pixel_values"].nbytes for row in subject.examples[:2]]
    assert "pixel_values" not in prepared[2].inputs
    assert mx.array_equal(subject.backbone.embed(collate(prepared))[0]["inputs_embeds"], expected)


def test_the_command_line_says_where_features_come_from(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Where they are kept before the first step, and how many were in the end; or why they are not."""
    rows = rows_file(tmp_path, 4)

    def show(name: str, **more: Any) -> list[str]:
        recipe = make_recipe(
            checkpoint("qwen3_vl"),
            rows,
            tmp_path / name,
            features__path=str(tmp_path / "kept"),
            features__memory_gb=1,
            **more,
        )
        console = Screen(file=io.StringIO(), width=500)
        train(recipe, console)
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        return [line for line in printed.splitlines() if line.startswith("features")]

    start, end = show("first")
    assert start == f"features of images: kept, up to 1 GB in memory and up to 20 GB in {tmp_path / 'kept'}"
    assert end.startswith("features of 12 images: 8 from memory, 0 from disk, 4 computed; kept now: ")
    assert re.search(r"kept now: [1-9]\S* kB in memory, [1-9]\S* kB on disk$", end)
    assert show("second")[1].startswith("features of 12 images: 8 from memory, 4 from disk, 0 computed; kept now: ")
    assert show("off", model__train_vision=True) == [
        "features of images: not kept: the vision tower or the connector is trained"
    ]


def test_a_resumed_run_ends_in_the_same_bits(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Images of one size share the tower's batch; what was kept before the stop is found again as it was."""
    lines = []
    for number in range(8):
        picture(32, 32, number).save(tmp_path / f"{number}.png")
        lines.append({"image": f"{number}.png", "question": f"What is {number}?", "answer": f"it is {number}"})
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, lines)))

    def recipe(name: str) -> Any:
        options = {"train__batch_size": 3, "train__iters": 8, "features__path": str(tmp_path / f"kept-{name}")}
        return make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / name, **options)

    straight = run(recipe("straight"))
    asked = iter(range(100))
    stopped = run(recipe("stopped"), should_stop=lambda: next(asked) >= 2)
    resumed = run(recipe("stopped"), resume=True)

    assert 0 < len(losses(stopped)) < 8
    assert losses(stopped) + losses(resumed) == losses(straight)
    weights = [load_arrays(tmp_path / name / "adapters.safetensors") for name in ("straight", "stopped")]
    assert isinstance(weights[0], dict)
    assert isinstance(weights[1], dict)
    assert all(mx.array_equal(weights[1][name], value) for name, value in weights[0].items())
