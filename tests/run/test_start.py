"""What a run refuses before its first step: states, adapters and weights that do not fit or are not whole."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import attrs
import mlx.core as mx
import pytest

from tests.arrays import load_arrays
from tests.runs import make_recipe, run
from vlora import init_state, make_optimizer
from vlora.build import load_data, load_model
from vlora.errors import CheckpointError, ModelError, RecipeError
from vlora.events import Warned
from vlora.memory.command_buffers import DIVIDED_MB, LARGE_OPERATIONS, MB_VARIABLE, OPS_VARIABLE
from vlora.output.checkpoint import load_state
from vlora.output.paths import STATE_NAME

CheckpointFactory = Callable[[str], Path]


def test_resume_needs_the_same_run(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A training state of another adapter, or none at all, is an error that names the file."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", train__iters=1)
    with pytest.raises(CheckpointError, match="no training state"):
        run(recipe, resume=True)
    run(recipe)
    other = attrs.evolve(recipe, lora=attrs.evolve(recipe.lora, rank=4))
    with pytest.raises(CheckpointError, match=r"lora\.rank: 8 then, 4 now"):
        run(other, resume=True)
    backbone, _ = load_model(other, load_data(other).files)
    with pytest.raises(CheckpointError, match="has shape"):
        load_state(tmp_path / "out" / STATE_NAME, init_state(backbone, make_optimizer(other.optim)))


@pytest.mark.parametrize(
    ("shard", "size", "expected"), [("params", 2, DIVIDED_MB), ("params", 1, 398), ("none", 2, 398)]
)
def test_divided_weights_have_small_command_buffers(
    shard: str, size: int, expected: int, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card they are chosen before anything has run there."""
    info = {"compute_capability_major": 9, "compute_capability_minor": 0, "total_memory": 81559 * 2**20}
    chosen: list[Mapping[str, str]] = []

    def begin_with(variables: Mapping[str, str]) -> bool:
        chosen.append(variables)
        raise InterruptedError

    for name in (MB_VARIABLE, OPS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("vlora.run.start.open_ranks", lambda: SimpleNamespace(size=size, is_first=False))
    monkeypatch.setattr("vlora.memory.limits.device_kind", lambda: "cuda")
    monkeypatch.setattr("vlora.memory.limits._begin_with", begin_with)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    keys = {"train__shard": shard, "train__grad_checkpoint": True}
    with pytest.raises(InterruptedError):
        run(make_recipe(tmp_path / "none", rows, tmp_path / "out", **keys))
    assert chosen == [{MB_VARIABLE: str(expected), OPS_VARIABLE: str(LARGE_OPERATIONS)}]


def test_no_run_begins_among_its_rows(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Its own files would be rows when it goes on; no folder is made."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows.parent, tmp_path / "out")
    for resume in (False, True):
        with pytest.raises(RecipeError, match=r"lies in the folder of data\.path, where its files would"):
            run(recipe, resume=resume)
    assert not (tmp_path / "out").exists()


def test_adapter_of_another_model_is_refused(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """An adapter that does not fit is an error, not a silent no-op."""
    run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "a", train__iters=1))
    other = make_recipe(checkpoint("mllama"), rows, tmp_path / "b", model__adapter_path=str(tmp_path / "a"))
    with pytest.raises(CheckpointError, match=r"was trained on .* names or shapes"):
        run(other)


def test_a_base_that_was_changed_is_told(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """A run that goes on, and one that begins from the adapter, say that the weights are others, or refuse them."""
    folder = Path(shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "model"))
    recipe = make_recipe(folder, rows, tmp_path / "out", train__iters=1)
    assert not [event for event in run(recipe) if isinstance(event, Warned) and "is loaded on" in event.message]
    file = next(folder.glob("*.safetensors"))
    arrays = {name: mx.array(value) for name, value in load_arrays(file).items()}
    mx.eval(arrays)
    name = next(name for name in sorted(arrays) if name.endswith("down_proj.weight"))
    mx.save_safetensors(str(file), {**arrays, name: arrays[name] * 1.5})
    more = attrs.evolve(recipe, train=attrs.evolve(recipe.train, iters=2))
    fresh = make_recipe(folder, rows, tmp_path / "b", model__adapter_path=str(tmp_path / "out"), train__iters=1)
    for chosen, resumes in ((fresh, False), (more, True)):
        strict = attrs.evolve(chosen, model=attrs.evolve(chosen.model, strict_base=True))
        with pytest.raises(CheckpointError, match=r"is loaded on .*model\.strict_base = true refuses that"):
            run(strict, resume=resumes)
        told = [event.message for event in run(chosen, resume=resumes) if isinstance(event, Warned)]
        assert len([line for line in told if "the weights are others" in line]) == 1


def test_half_an_adapter_is_refused(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """An adapter or its configuration that was not written whole is an error with the file's name."""
    run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "a", train__iters=1))
    again = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "b", model__adapter_path=str(tmp_path / "a"))
    weights, config = tmp_path / "a" / "adapters.safetensors", tmp_path / "a" / "adapter_config.json"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"adapters\.safetensors: cannot be read"):
        run(again)
    config.write_text(config.read_text()[:-10])
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is not JSON"):
        run(again)


def test_a_configuration_that_is_not_whole_is_refused(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """A base whose config.json is cut off is not said to have none."""
    folder = shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "base")
    (folder / "config.json").write_text((folder / "config.json").read_text()[:-10])
    with pytest.raises(ModelError, match=r"model\.path: .*base/config\.json is not JSON"):
        run(make_recipe(folder, rows, tmp_path / "out"))


@pytest.mark.parametrize(
    ("n_bytes", "reason"), [(-10, "cannot be read: .* not written whole"), (0, "No safetensors found")]
)
def test_weights_that_are_not_whole_are_refused(
    n_bytes: int, reason: str, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """A base whose weights are cut off, or not there, is an error of one line that names it."""
    folder = shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "base")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if n_bytes:
        weights.write_bytes(whole[:n_bytes])
    with pytest.raises(ModelError, match=rf"^model\.path: [^\n]*base[^\n]*{reason}[^\n]*$"):
        run(make_recipe(folder, rows, tmp_path / "out"))
