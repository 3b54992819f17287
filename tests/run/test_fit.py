"""Whole runs on a tiny real model: what they write, and that mlx-vlm reads it; stopping, going on, failing."""

import inspect
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.arrays import load_arrays
from tests.runs import N_ROWS, losses, make_recipe, reloaded_logits, run, trained_logits
from vlora import TrainState, fit, init_state, make_optimizer, parse_recipe
from vlora.build import load_data, load_model
from vlora.errors import NonFiniteError, SampleError
from vlora.events import Finished, Reported, Skipped, Started, StepReport, Working
from vlora.models import describe_family
from vlora.output.checkpoint import load_state, save_state
from vlora.output.paths import METRICS_NAME, RECIPE_NAME, STATE_NAME
from vlora.recipe.schema import OPTIMIZERS
from vlora.run import start
from vlora.train.state import bind

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="lora"),
        pytest.param({"lora__targets": ["q_proj", "down_proj"], "lora__alpha": 3.0}, id="targets"),
        pytest.param({"model__quantize_bits": 4, "model__quantize_group_size": 32}, id="qlora"),
        pytest.param({"model__train_vision": True}, id="lora-and-vision"),
        pytest.param({"lora__rslora": True, "lora__rank": 16}, id="rslora"),
        pytest.param({"lora__method": "dora"}, id="dora"),
        pytest.param(
            {"lora__method": "dora", "model__quantize_bits": 4, "model__quantize_group_size": 32},
            id="quantized-dora",
            marks=pytest.mark.slow,
        ),
        pytest.param({"lora__init": "pissa"}, id="pissa"),
        pytest.param({"lora__init": "pissa", "lora__method": "dora"}, id="pissa-dora", marks=pytest.mark.slow),
        pytest.param({"lora__targets": ["attention", "connector", "vision"], "lora__last_layers": 1}, id="groups"),
        pytest.param({"lora__train_embeddings": True, "lora__targets": ["q_proj"]}, id="embeddings"),
        pytest.param({"lora__train_head": True, "lora__targets": ["q_proj"]}, id="head"),
        pytest.param(
            {
                "lora__targets": ["all-linear"],
                "optim__lora_plus_ratio": 4.0,
                "optim__vision_rate": 1e-3,
                "optim__connector_rate": 2e-3,
            },
            id="rates",
        ),
    ],
)
def test_mlx_vlm_loads_the_adapter(
    overrides: dict[str, Any], checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """`mlx_vlm.load(base, adapter_path=...)` gives the logits of the trained model."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out" / "a.safetensors", **overrides)
    run(recipe)
    batch, expected = trained_logits(recipe)
    model, _ = mlx_vlm.load(recipe.model.path, adapter_path=recipe.output.path)
    base, _ = mlx_vlm.load(recipe.model.path)

    for row, found in enumerate(reloaded_logits(model, batch)):
        np.testing.assert_allclose(found, expected[row, : len(found)], atol=2e-4)
        assert np.abs(reloaded_logits(base, batch)[row] - found).max() > 0.1


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="lora"),
        pytest.param({"lora__init": "pissa"}, id="pissa"),
        pytest.param({"lora__targets": ["experts"], "lora__last_layers": 1}, id="experts-only"),
    ],
)
def test_mlx_vlm_loads_adapters_of_experts(
    overrides: dict[str, Any], checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """An adapter of experts is loaded too, and moves what they compute."""
    recipe = make_recipe(checkpoint("qwen3_vl_moe"), rows, tmp_path / "out", **overrides)
    run(recipe)
    arrays = load_arrays(tmp_path / "out" / "adapters.safetensors")
    batch, expected = trained_logits(recipe)
    model, _ = mlx_vlm.load(recipe.model.path, adapter_path=str(tmp_path / "out"))

    assert any("switch_mlp" in name and float(mx.abs(value).max()) > 0 for name, value in arrays.items())
    # With the tower's activation as in training: mlx-vlm's own is another one.
    with describe_family("qwen3_vl_moe").forward.embed_overrides(model):
        reloaded = reloaded_logits(model, batch)
    for row, found in enumerate(reloaded):
        np.testing.assert_allclose(found, expected[row, : len(found)], atol=2e-4)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "pixtral", "mllama", "deepseek_vl_v2"])
def test_mlx_vlm_loads_other_families_adapters(
    family: str, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """The same holds for the other proven families."""
    recipe = make_recipe(checkpoint(family), rows, tmp_path / "out", train__iters=2)
    run(recipe)
    batch, expected = trained_logits(recipe)
    model, _ = mlx_vlm.load(recipe.model.path, adapter_path=str(tmp_path / "out"))
    # The row with an image: what mlx-vlm does to Mllama's text-only rows is its own.
    row = next(index for index, example in enumerate(batch.rows) if example.inputs)
    described = describe_family(family)
    inputs = described.forward.fix_inputs(dict(batch.rows[row].inputs))
    # As in training: mlx-vlm's own DeepSeek-VL2 rotates otherwise.
    described.forward.fix_weights(model)
    only = batch._replace(rows=(attrs.evolve(batch.rows[row], inputs=inputs),))
    (found,) = reloaded_logits(model, only)

    np.testing.assert_allclose(found, expected[row, : len(found)], atol=2e-4)


def test_mlx_vlm_loads_the_full_model(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Full fine-tuning leaves a complete model folder: same logits, a processor, and it generates."""
    recipe = make_recipe(
        checkpoint("qwen3_vl"),
        rows,
        tmp_path / "full.safetensors",
        model__full_finetune=True,
        model__train_vision=True,
        optim__learning_rate=1e-3,
    )
    events = run(recipe)
    folder = tmp_path / "full"
    batch, expected = trained_logits(recipe)
    model, processor = mlx_vlm.load(str(folder))
    answer = mlx_vlm.generate(model, processor, "hi", image=None, max_tokens=2)

    for row, found in enumerate(reloaded_logits(model, batch)):
        np.testing.assert_allclose(found, expected[row, : len(found)], atol=2e-4)
    assert isinstance(answer.text, str)
    assert {path.name for path in tmp_path.glob("full-*")} == {"full-0000002", "full-0000004"}
    assert not list(tmp_path.rglob(".partial*"))
    assert [event.model for event in events if isinstance(event, Finished)] == [str(folder)]


def test_what_a_run_writes(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Metrics, numbered checkpoints, the resolved recipe and the adapter stand beside one another."""
    out = tmp_path / "out"
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, out, data__valid_fraction=0.3)
    events = run(recipe)
    lines = [json.loads(line) for line in (out / METRICS_NAME).read_text().splitlines()]
    reports = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "valid_loss" in line]
    config = json.loads((out / "adapter_config.json").read_text())

    assert [line["step"] for line in reports] == [2, 4, 6]
    assert [line["step"] for line in validations] == [0, 3, 6]
    assert set(reports[0]) == {
        "step",
        "loss",
        "running_loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_s",
        "supervised_tokens",
        "padding",
        "wait_s",
        "cut_rows",
        "cut_supervised_tokens",
        "n_traces",
        "trace_s",
        "seconds",
        "peak_memory_gb",
        "active_memory_gb",
        "cache_memory_gb",
        "unix_time",
        "first_step_unix_time",
        "features_from_memory",
        "features_from_disk",
        "features_computed",
        "features_memory_gb",
        "features_disk_gb",
    }
    assert set(validations[0]) >= {"step", "valid_loss", "valid_tokens"}
    assert {path.name for path in out.glob("*.safetensors")} == {
        "adapters.safetensors",
        "0000002_adapters.safetensors",
        "0000004_adapters.safetensors",
    }
    assert parse_recipe((out / RECIPE_NAME).read_text()) == recipe
    assert config["lora_parameters"]["scale"] == 2.0
    assert [event.metrics for event in events if isinstance(event, Reported)] == lines[1:]
    (started,) = [event for event in events if isinstance(event, Started)]
    assert (started.n_rows, started.n_valid_rows) == (5, 2)
    # What takes a while before the first step is told before it begins.
    told = [event.what for event in events[: events.index(started)] if isinstance(event, Working)]
    assert told[:2] == ["reading the rows", "loading the model"]
    before = events[: next(place for place, event in enumerate(events) if isinstance(event, StepReport))]
    assert before[-1] == Working(what="compiling the first step")


def test_resume_is_exact(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A run that was stopped and goes on ends bit for bit where one that was not ends: dropout, order, schedule."""
    options: dict[str, Any] = {
        "lora__dropout": 0.2,
        "optim__schedule": "cosine",
        "optim__warmup_steps": 2,
    }
    straight = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "straight", **options)
    stopped = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "stopped", **options)
    expected = losses(run(straight))
    calls = iter([False, False, True])
    first = run(stopped, should_stop=lambda: next(calls))
    second = run(stopped, resume=True)
    weights = [load_arrays(tmp_path / name / "adapters.safetensors") for name in ("straight", "stopped")]
    lines = [json.loads(line) for line in (tmp_path / "stopped" / METRICS_NAME).read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]

    assert losses(first) + losses(second) == expected
    assert [event.step for event in (*first, *second) if isinstance(event, Finished)] == [3, 6]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
    assert steps == [2, 4, 6]


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        pytest.param("qwen3_vl", {}, id="lora"),
        pytest.param("qwen3_vl", {"lora__method": "dora", "lora__rslora": True, "lora__alpha": 4.0}, id="dora"),
        pytest.param("qwen3_vl", {"lora__init": "pissa", "optim__learning_rate": 1e-3}, id="pissa"),
        pytest.param("qwen3_vl", {"lora__train_embeddings": True, "lora__last_layers": 1}, id="embeddings"),
        pytest.param("qwen3_vl_moe", {"lora__targets": ["experts"]}, id="experts"),
    ],
)
def test_adapter_path_goes_on(
    family: str, overrides: dict[str, Any], checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """Training goes on from an adapter: its first loss is the one the adapter had reached."""
    options = {"data__shuffle": False, "train__batch_size": 7, **overrides}
    recipe = make_recipe(checkpoint(family), rows, tmp_path / "a", **options)
    before = losses(run(recipe))
    again = make_recipe(
        checkpoint(family),
        rows,
        tmp_path / "b",
        data__shuffle=False,
        train__batch_size=7,
        train__iters=1,
        model__adapter_path=str(tmp_path / "a" / "adapters.safetensors"),
    )
    first = losses(run(again))[0]

    assert first < before[-1] < before[0]


def test_bad_row_stops_with_its_number(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A missing image stops the run with the row's number and what to do."""
    (tmp_path / "5.png").unlink()
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out")
    with pytest.raises(SampleError, match=r"row 5: line 6 of \w+\.jsonl: cannot read the image .*5\.png"):
        run(recipe)


@pytest.mark.parametrize("bad", [0, 5])
def test_bad_rows_can_be_skipped(bad: int, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """With on_bad_row = "skip" the run goes on, says why, and counts; a step without rows is passed over.

    The first row is also the one that the end of the run would show.
    """
    (tmp_path / f"{bad}.png").unlink()
    recipe = make_recipe(
        checkpoint("qwen3_vl"),
        rows,
        tmp_path / "out",
        data__on_bad_row="skip",
        train__epochs=1,
        train__batch_size=1,
    )
    events = run(recipe)

    assert next(event.reason for event in events if isinstance(event, Skipped)).startswith("rows.jsonl")
    assert len(losses(events)) == N_ROWS - 1
    assert [(event.step, event.n_skipped) for event in events if isinstance(event, Finished)] == [(N_ROWS, 1)]


def test_non_finite_loss_stops_the_run(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A loss that overflows stops the run with step, rate, norm and rows; what is on disk is finite."""
    recipe = make_recipe(
        checkpoint("qwen3_vl"),
        rows,
        tmp_path / "out",
        optim__learning_rate=1e30,
        train__steps_per_save=1,
    )
    with pytest.raises(
        NonFiniteError,
        match=r"step \d+: the loss is .* learning rate 1e\+30.*rows\.jsonl train row \d",
    ):
        run(recipe)
    for file in (tmp_path / "out").rglob("*.safetensors"):
        assert all(math.isfinite(float(mx.abs(value).max())) for value in load_arrays(file).values())


def test_state_round_trip_is_bitwise(tmp_path: Path) -> None:
    """A state comes back bit for bit, in the order of its template."""
    state = TrainState(
        {"b.weight": mx.random.normal((3, 2)), "a.weight": mx.array([math.pi])},
        {"b.weight": {"m": mx.ones((3, 2)), "v": mx.zeros((3, 2))}, "step": mx.array(4)},
        mx.array(4),
    )
    save_state(tmp_path / "s.safetensors", state)
    found = load_state(tmp_path / "s.safetensors", state)
    pairs = zip(tree_flatten(found._asdict()), tree_flatten(state._asdict()), strict=True)

    assert list(found.params) == list(state.params)
    assert all(a[0] == b[0] and bool((a[1] == b[1]).all()) for a, b in pairs)


def test_bind_writes_the_model_own_types(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """`bind` puts the trained parameters into the model."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", train__iters=1)
    run(recipe)
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    state = load_state(tmp_path / "out" / STATE_NAME, init_state(backbone, make_optimizer(recipe.optim)))
    bind(backbone, state)
    held = dict(tree_flatten(backbone.module.trainable_parameters()))

    assert all(bool((held[name] == value).all()) for name, value in state.params.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_and_resumes(
    name: str, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """Every optimizer lowers the loss through the compiled step, and its state goes to disk and back."""
    rates = {"sgd": 1e-1, "muon": 1e-2, "lion": 1e-3, "adafactor": 1e-2}
    recipe = make_recipe(
        checkpoint("llava"),
        rows,
        tmp_path / "out",
        optim__name=name,
        optim__learning_rate=rates.get(name, 1e-2),
        optim__grad_clip=1.0,
        train__batch_size=N_ROWS,
        train__steps_per_save=100,
    )
    calls = iter([False, False, False, True])
    first = losses(run(recipe, should_stop=lambda: next(calls)))
    second = losses(run(recipe, resume=True))

    assert len(first) == 4
    assert len(second) == 2
    assert second[-1] < first[0]


def test_assistant_id_masks_in_the_plain_layout(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """In it what follows `data.assistant_id` is learned, if that is given; a row without that token is a bad row."""
    folder = shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "base")
    (folder / "chat_template.json").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    recipe = make_recipe(folder, rows, tmp_path / "out", data__chat_template="plain", data__assistant_id=77091)
    data = load_data(recipe)
    colon = data.encoder.tokenizer("?", add_special_tokens=False)["input_ids"][0]
    masked = load_data(
        make_recipe(folder, rows, tmp_path / "out", data__chat_template="plain", data__assistant_id=colon)
    )
    example = masked.encoder(masked.train[0])
    learned = masked.encoder.tokenizer.decode(example.tokens[example.supervised])

    assert learned.strip() == "it is 0<|im_end|>"
    with pytest.raises(SampleError, match=r"row 0: .*no token data\.assistant_id=77091"):
        data.encoder(data.train[0])


def test_few_frames_lie_between_a_run_and_its_step(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a step is read with the run's frame and the loop's; what else a run does is over by then."""
    found: list[str] = []

    class Step:
        n_traces = 0
        embeds_ahead = False
        backbone = SimpleNamespace(count_places=lambda batch: batch.tokens.size)

        def accumulate(self, *_: Any) -> None:
            frame = inspect.currentframe()
            while (frame := frame and frame.f_back) is not None and frame.f_code.co_name != "run_a_fit":
                found.append(Path(frame.f_code.co_filename).stem)
            raise KeyboardInterrupt

    def run_a_fit() -> None:
        for _ in fit(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out")):
            pass

    monkeypatch.setattr(start, "make_recipe_step", lambda *_, **__: Step())
    with pytest.raises(KeyboardInterrupt):
        run_a_fit()

    assert found == ["loop", "fit"]
