"""Going on: with the same recipe and rows only, but for what the steps do not depend on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest

from tests.arrays import load_arrays
from tests.run.test_bad_rows import write_rows
from tests.runs import losses, make_recipe, run
from vlora import parse_recipe
from vlora.errors import CheckpointError
from vlora.events import Event, StepReport
from vlora.output.checkpoint import RunMetadata, load_metadata, load_state, save_state
from vlora.output.paths import METRICS_NAME, STATE_NAME
from vlora.output.resume import RESUME_MUTABLE_KEYS, check_resumable, pin_revisions, run_metadata
from vlora.recipe.parse import all_keys
from vlora.train.rules import FIRST, Rules, parse_rules
from vlora.types import TrainState

CheckpointFactory = Callable[[str], Path]
MINIMAL = '[data]\npath = "rows.jsonl"\n'
OTHERS: dict[str, Any] = {
    "model.path": "other/model",
    "model.revision": "v1",
    "model.full_finetune": True,
    "model.train_vision": True,
    "model.adapter_path": "some/adapter",
    "model.trust_remote_code": True,
    "model.quantize_bits": 4,
    "model.quantize_group_size": 32,
    "model.add_tokens": ["<loc_1>"],
    "data.path": "others.jsonl",
    "data.revision": "v1",
    "data.split": "test",
    "data.config": "en",
    "data.image_resize_shape": [32, 32],
    "data.max_pixels": 900,
    "data.custom_prompt_format": '{"user": "{q}"}',
    "data.columns": {"imgs": "images", "notes": "unused"},
    "data.image_root": "pictures",
    "data.system": "Be brief.",
    "data.max_seq_length": 100,
    "data.train_on_completions": True,
    "data.learn_end": False,
    "data.on_long_row": "skip",
    "data.shuffle": False,
    "data.streaming": True,
    "data.shuffle_buffer": 10,
    "data.valid_fraction": 0.1,
    "data.chat_template": "plain",
    "data.assistant_id": 5,
    "lora.rank": 4,
    "lora.alpha": 4.0,
    "lora.dropout": 0.1,
    "lora.targets": ["q_proj"],
    "lora.last_layers": 2,
    "lora.method": "dora",
    "lora.rslora": True,
    "lora.init": "pissa",
    "lora.train_embeddings": True,
    "lora.train_head": True,
    "optim.name": "sgd",
    "optim.learning_rate": 1e-3,
    "optim.lora_plus_ratio": 4.0,
    "optim.connector_rate": 1e-3,
    "optim.vision_rate": 1e-3,
    "optim.weight_decay": 0.1,
    "optim.decay_all": True,
    "optim.betas": [0.9, 0.95],
    "optim.eps": 1e-6,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 5,
    "optim.grad_clip": 1.0,
    "train.batch_size": 2,
    "train.batching": "grouped",
    "train.pack_length": 4096,
    "train.gradient_accumulation_steps": 2,
    "train.seed": 1,
    "train.objective": "orpo",
    "preference.loss": ["ipo"],
    "preference.weights": [0.5],
    "preference.beta": 0.2,
    "preference.label_smoothing": 0.1,
    "preference.gamma": 1.0,
    "preference.dpop": 50.0,
    "preference.nll_weight": 0.0,
    "preference.desirable_weight": 2.0,
    "preference.undesirable_weight": 2.0,
    "preference.precompute": True,
}
DPO, CPO, KTO = ({"train.objective": objective} for objective in ("dpo", "cpo", "kto"))

NEEDS: dict[str, dict[str, Any]] = {
    "data.assistant_id": {"data.chat_template": "plain"},
    "data.streaming": {"train.iters": 5},
    "data.shuffle_buffer": {"train.iters": 5, "data.streaming": True},
    "optim.connector_rate": {"lora.targets": ["all-linear"]},
    "optim.vision_rate": {"lora.targets": ["all-linear"]},
    "train.pack_length": {"train.batching": "packed"},
    **{f"preference.{key}": DPO for key in ("loss", "weights", "beta", "label_smoothing", "dpop", "precompute")},
    "preference.gamma": {**CPO, "preference.loss": ["simpo"]},
    "preference.nll_weight": CPO,
    **{f"preference.{key}": KTO for key in ("desirable_weight", "undesirable_weight")},
}


def test_every_key_is_decided_on() -> None:
    """A new key has to be in one of the two lists: those that may change, and those that may not."""
    assert RESUME_MUTABLE_KEYS | set(OTHERS) | {"data.sources"} == set(all_keys())
    assert not RESUME_MUTABLE_KEYS & set(OTHERS)


@pytest.mark.parametrize("key", OTHERS)
@pytest.mark.parametrize("is_back", [False, True])
def test_what_steps_depend_on_may_not_change(key: str, is_back: bool) -> None:
    """The error names the key, its value then and its value now, and no other key."""
    needs = NEEDS.get(key, {})
    recipes = [parse_recipe(MINIMAL, needs), parse_recipe(MINIMAL, {**needs, key: OTHERS[key]})]
    then, now = reversed(recipes) if is_back else recipes
    with pytest.raises(CheckpointError) as caught:
        check_resumable(run_metadata(then, 3), now, 3, Path("out/state"))
    first, *changed, _ = str(caught.value).splitlines()
    section, name = key.split(".")
    values = [getattr(getattr(recipe, section), name) for recipe in (then, now)]
    shown = [
        "not given" if value is None else repr(list(value) if isinstance(value, tuple) else value) for value in values
    ]

    assert first.startswith("out/state: ")
    assert changed == [f"  {key}: {shown[0]} then, {shown[1]} now"]


def test_sources_may_not_change() -> None:
    """Neither which they are, nor their order, weights and columns; the same files in other words are the same."""
    sources = [{"path": "a.jsonl", "weight": 1}, {"path": "b.jsonl", "weight": 2, "columns": {"q": "question"}}]
    then = run_metadata(parse_recipe("", {"data.sources": sources}), 3)
    moved = [{**source, "path": f"./x/../{source['path']}"} for source in sources]

    check_resumable(then, parse_recipe("", {"data.sources": moved}), 3, Path("out/state"))
    for changed in (sources[::-1], [{**source, "weight": 1} for source in sources], [{**sources[0], "rows": 5}]):
        with pytest.raises(CheckpointError, match=r"\n  data.sources: "):
            check_resumable(then, parse_recipe("", {"data.sources": changed}), 3, Path("out/state"))
    with pytest.raises(CheckpointError, match=r"data.sources: 3 rows to train on then, 4 now"):
        check_resumable(then, parse_recipe("", {"data.sources": sources}), 4, Path("out/state"))


def test_versions_of_sources_are_pinned() -> None:
    """Each by its place, if it names the same version as before."""
    sources = [{"path": "owner/a"}, {"path": "owner/b", "revision": "v1"}, {"path": "c.jsonl"}]
    recipe = parse_recipe("", {"data.sources": sources})
    commits = {"data.sources[0]": "abc", "data.sources[1]": "def"}
    then = attrs.evolve(run_metadata(recipe, 3), commits=json.dumps(commits))
    other = parse_recipe("", {"data.sources": [{"path": "owner/z"}, *sources[1:]]})

    assert [source.revision for source in pin_revisions(then, recipe).data.sources] == ["abc", "def", None]
    assert [source.revision for source in pin_revisions(then, other).data.sources] == [None, "def", None]


def test_what_steps_do_not_depend_on_may_change() -> None:
    """Length, reports, answers, memory, workers and where things are kept are free."""
    then = parse_recipe(MINIMAL, {"data.valid_path": "a"})
    now = parse_recipe(
        MINIMAL,
        {
            "train.epochs": 3,
            "train.steps_per_report": 7,
            "train.steps_per_eval": 7,
            "train.steps_per_save": 7,
            "train.val_batches": 7,
            "train.grad_checkpoint": True,
            "train.checkpoint_every": 2,
            "train.checkpoint_part": "mlp",
            "eval.answer_rows": 7,
            "eval.max_new_tokens": 7,
            "data.valid_split": "test",
            "data.workers": 7,
            "data.prefetch": 7,
            "data.on_bad_row": "skip",
            "data.allow_changed_rows": True,
            "memory.limit_gb": 7.0,
            "memory.cache_gb": 2.0,
            "memory.wired_gb": 2.0,
            "memory.max_mb_per_buffer": 200,
            "features.cache": False,
            "features.memory_gb": 7.0,
            "features.disk_gb": 7.0,
            "features.path": "kept",
            "output.path": "elsewhere",
        },
    )

    check_resumable(run_metadata(then, 3), now, 3, Path("state"))
    check_resumable(run_metadata(now, 3), then, 3, Path("state"))


def test_what_was_written_of_a_key_that_nothing_reads() -> None:
    """Older recipes all name a token for the plain layout; where that is not used it may be any."""
    then, now = parse_recipe(MINIMAL, {"data.assistant_id": 77091}), parse_recipe(MINIMAL)

    check_resumable(run_metadata(then, 3), now, 3, Path("state"))


def test_a_template_is_the_same() -> None:
    """A file, or a model, whose chat template is another one now does not go on; a state that says nothing does."""
    recipe = parse_recipe(MINIMAL, {"data.chat_template": "a.jinja"})
    check_resumable(run_metadata(recipe, 3, "one"), recipe, 3, Path("state"), "one")
    check_resumable(run_metadata(recipe, 3), recipe, 3, Path("state"), "one")
    with pytest.raises(CheckpointError, match=r"the chat template .* was another one then"):
        check_resumable(run_metadata(recipe, 3, "one"), recipe, 3, Path("state"), "another")


def test_all_changes_are_reported_at_once() -> None:
    """Everything that has changed comes in one error, with what to do."""
    then, now = parse_recipe(MINIMAL), parse_recipe(MINIMAL, {"train.seed": 3, "lora.alpha": 4.0})
    with pytest.raises(CheckpointError, match=r"(?s)lora\.alpha.*train\.seed.*leave --resume out"):
        check_resumable(run_metadata(then, 3), now, 3, Path("state"))


def test_the_same_place_in_other_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may be written in another way, relative or not."""
    monkeypatch.chdir(tmp_path)
    then = parse_recipe(MINIMAL, {"model.path": "models/a"})
    now = parse_recipe(MINIMAL, {"data.path": str(tmp_path / "rows.jsonl"), "model.path": "./models/../models/a/"})

    check_resumable(run_metadata(then, 3), now, 3, Path("state"))


def test_more_rows_are_other_rows() -> None:
    """A data set that has grown is shuffled otherwise."""
    recipe = parse_recipe(MINIMAL)
    with pytest.raises(CheckpointError, match=r"'rows\.jsonl' \(data\.path\): 3 rows to train on then, 4 now"):
        check_resumable(run_metadata(recipe, 3), recipe, 4, Path("state"))


def test_keys_that_there_were_not() -> None:
    """A state that is older than a key was made with its default; one without notes is not checked."""
    recipe = parse_recipe(MINIMAL)
    metadata = run_metadata(recipe, 3)
    older = attrs.evolve(metadata, recipe=str(metadata.recipe).replace('batching = "shuffled"\n', ""))
    grouped = parse_recipe(MINIMAL, {"train.batching": "grouped"})

    assert older != metadata
    check_resumable(older, recipe, 3, Path("state"))
    check_resumable(RunMetadata(), grouped, 4, Path("state"))
    with pytest.raises(CheckpointError, match="'shuffled' then, 'grouped' now"):
        check_resumable(older, grouped, 3, Path("state"))


def test_metadata_round_trips(tmp_path: Path) -> None:
    """Metadata come back as they were; a state without a file, or of half a file, is an error with its name."""
    path = tmp_path / "state.safetensors"
    state = TrainState({"a": mx.zeros(1000)}, {"step": mx.array(1)}, mx.array(1))
    metadata = RunMetadata(recipe='a = "é\\n"\n[b]\n', n_rows=3)
    save_state(path, state, metadata)
    assert load_metadata(path) == metadata
    save_state(path, state, {"n_rows": "4", "own": "a user's"})
    assert load_metadata(path) == RunMetadata(n_rows=4)
    save_state(path, state)
    assert load_metadata(path) == RunMetadata()

    path.write_bytes(path.read_bytes()[:-100])
    for read in (load_metadata, lambda path: load_state(path, state)):
        with pytest.raises(CheckpointError, match=r"state\.safetensors: cannot be read"):
            read(path)
        with pytest.raises(CheckpointError, match="no training state"):
            read(tmp_path / "none")


def test_a_run_goes_on_with_its_own_recipe_only(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A run refuses another batching, and more rows, before it loads the model, and then still goes on exactly."""
    rows, out = write_rows(tmp_path, "rows"), tmp_path / "out"
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, out, train__iters=4)
    straight = losses(run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "straight", train__iters=4)))
    first = losses(run(recipe, should_stop=lambda: True))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"train\.batching: 'shuffled' then, 'grouped' now"):
        run(make_recipe(checkpoint("qwen3_vl"), rows, out, train__batching="grouped"), resume=True)
    text = rows.read_text()
    rows.write_text(text + "\n" + text.splitlines()[0])
    with pytest.raises(CheckpointError, match="5 rows to train on then, 6 now"):
        run(recipe, resume=True)
    rows.write_text(text)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    more = make_recipe(checkpoint("qwen3_vl"), rows, out, train__iters=4, data__workers=0, train__steps_per_report=1)
    assert first + losses(run(more, resume=True)) == straight


def test_fewer_steps_than_were_done(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A run that is over goes on with more steps only, and says how many were done."""
    rows, out = write_rows(tmp_path, "rows"), tmp_path / "out"
    run(make_recipe(checkpoint("qwen3_vl"), rows, out, train__iters=4))
    with pytest.raises(CheckpointError, match=r"train\.iters: the recipe has 2 steps, of which 4 are done"):
        run(make_recipe(checkpoint("qwen3_vl"), rows, out, train__iters=2), resume=True)
    with pytest.raises(CheckpointError, match=r"train\.epochs: the recipe has 3 steps, of which 4 are done"):
        run(make_recipe(checkpoint("qwen3_vl"), rows, out, train__epochs=1), resume=True)


def test_metrics_of_a_run_that_was_killed(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Half a line at the end is left out; anything else that is no line of metrics is named."""
    rows, out = write_rows(tmp_path, "rows"), tmp_path / "out"
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, out, train__iters=4)
    calls = iter([False, True])
    run(recipe, should_stop=lambda: next(calls))
    file = out / METRICS_NAME
    text = file.read_text()
    file.write_text(f'{text}{{"step": 3, "lo')
    run(recipe, resume=True)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [0, 2, 2, 4]
    assert (out / STATE_NAME).is_file()

    file.write_text(f"what is this?\n{text}")
    with pytest.raises(
        CheckpointError, match=r"metrics\.jsonl: line 1 is not one of a run's metrics: 'what is this\?'"
    ):
        run(recipe, resume=True)


def test_rules_come_back() -> None:
    """What a state says of its rules is read again; one that says nothing follows the first version of each."""
    names = list(attrs.asdict(Rules()))
    assert parse_rules(Rules().dumps(), "state") == Rules()
    assert attrs.asdict(parse_rules(None, "state")) == dict.fromkeys(names, FIRST)
    assert attrs.asdict(parse_rules("{}", "state")) == dict.fromkeys(names, FIRST)
    assert parse_rules('{"dropout_keys": 1}', "state").dropout_keys == 1
    for note in ('{"dropout_keys": 1000}', '{"dropout_keys": 0}', '{"dropout_keys": "2"}', '{"of_the_future": 2}'):
        with pytest.raises(CheckpointError, match=r"^out/state: follows version .* of the rule '(dropout|of_the)"):
            parse_rules(note, "out/state")


def test_an_older_state_goes_on_with_its_rules(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A state without rules goes on with the old keys of dropout, and so does what goes on from that."""
    rows, out = write_rows(tmp_path, "rows"), tmp_path / "out"
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, out, lora__dropout=0.5, train__seed=3, train__iters=4)
    calls = iter([False, True])
    new = losses(run(recipe, should_stop=lambda: next(calls)))
    state = out / STATE_NAME
    assert parse_rules(load_metadata(state).rules, state) == Rules()
    arrays, metadata = load_arrays(state), attrs.evolve(load_metadata(state), rules=None)
    mx.save_safetensors(str(state), arrays, metadata=metadata.dump())
    older = shutil.copytree(out, tmp_path / "older")
    going_on = losses(run(recipe, resume=True))
    assert parse_rules(load_metadata(state).rules, state).dropout_keys == FIRST

    calls = iter([True])
    in_parts = attrs.evolve(recipe, output=attrs.evolve(recipe.output, path=str(older)))
    parts = losses(run(in_parts, resume=True, should_stop=lambda: next(calls))) + losses(run(in_parts, resume=True))
    straight = make_recipe(
        checkpoint("qwen3_vl"), rows, tmp_path / "new", lora__dropout=0.5, train__seed=3, train__iters=4
    )
    assert parts == going_on
    assert new + going_on != losses(run(straight))


def learned_tokens(events: list[Event]) -> list[int]:
    """List how many tokens each step has learned."""
    return [event.supervised_tokens for event in events if isinstance(event, StepReport)]


def test_an_older_state_learns_no_other_ends(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """What began before answers got ends of their own goes on without them."""
    rows, out = write_rows(tmp_path, "rows"), tmp_path / "out"
    recipe = make_recipe(checkpoint("llava"), rows, out, train__iters=4, train__batch_size=1)
    calls = iter([False, True])
    run(recipe, should_stop=lambda: next(calls))
    state = out / STATE_NAME
    arrays, metadata = load_arrays(state), load_metadata(state)
    rules = json.dumps(json.loads(str(metadata.rules)) | {"ends": FIRST})
    mx.save_safetensors(str(state), arrays, metadata=attrs.evolve(metadata, rules=rules).dump())
    older = learned_tokens(run(recipe, resume=True))
    ended = learned_tokens(run(attrs.evolve(recipe, output=attrs.evolve(recipe.output, path=str(tmp_path / "new")))))

    # A token less for each row.
    assert [number + 1 for number in older] == ended[2:]
    assert parse_rules(load_metadata(state).rules, state).ends == FIRST


def test_versions_that_were_loaded_are_loaded_again() -> None:
    """The commits of the state, but not those of what the recipe has changed; older states name none."""
    recipe = parse_recipe(MINIMAL, {"model.revision": "main"})
    then = attrs.evolve(run_metadata(recipe, 3), commits='{"model": "abc", "data": "def"}')
    pinned, other = pin_revisions(then, recipe), parse_recipe(MINIMAL, {"model.revision": "v2"})

    assert (pinned.model.revision, pinned.data.revision) == ("abc", "def")
    assert (pin_revisions(then, other).model.revision, pin_revisions(then, other).data.revision) == ("v2", "def")
    assert pin_revisions(attrs.evolve(then, commits=None), recipe) == recipe
