"""An adapter's files are read with the shapes of their base; what is damaged or of another base is refused."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from tests.arrays import load_arrays
from tests.export.adapters import write_adapter
from tests.golden.mlx_side import write_folder
from vlora.cli.main import main
from vlora.errors import CheckpointError
from vlora.export.programs import export
from vlora.export.saved import open_saved


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of queries and values."""
    return write_adapter(tmp_path_factory.mktemp("saved"), rank=3, alpha=6.0, targets=("q_proj", "v_proj"))


def test_factors_are_sorted_by_their_layers(own: Path) -> None:
    """Each layer has both factors, and the scale is the adapter's."""
    saved = open_saved(str(own))
    assert len(saved.layers) == 4
    assert {found.rank for found in saved.layers.values()} == {3}
    assert (saved.scale, saved.is_dora, dict(saved.whole)) == (2.0, False, {})
    assert saved.base == str(own.parent / "model")


def test_adapters_of_other_programs_are_imported_first(own: Path, tmp_path: Path) -> None:
    """PEFT's folder, an adapter without a method, and one of mlx-lm's are not taken for damaged ones."""
    export(str(own), "peft", tmp_path / "peft")
    settings = {"rank": 3, "scale": 2.0, "dropout": 0.0}
    plain, short = changed(own, tmp_path / "plain", fine_tune_type=None), tmp_path / "short"
    arrays = load_arrays(changed(own, short, lora_parameters=settings) / "adapters.safetensors")
    names = {name.removeprefix("language_model."): value for name, value in arrays.items()}
    mx.save_safetensors(str(short / "adapters.safetensors"), names)
    for folder in (tmp_path / "peft", plain, short):
        command = f"python -m vlora import {folder} --model {own.parent / 'model'}"
        with pytest.raises(CheckpointError, match=f"with `{command}` first, and export that folder"):
            open_saved(str(folder))
        assert main(command.split()[3:]) == 0
        assert open_saved(str(folder / "mlx")).layers.keys() == open_saved(str(own)).layers.keys()


def changed(own: Path, folder: Path, **config: object) -> Path:
    shutil.copytree(own, folder)
    file = folder / "adapter_config.json"
    found = json.loads(file.read_text()) | config
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return folder


def test_what_cannot_be_taken_elsewhere_is_refused(own: Path, tmp_path: Path) -> None:
    """A sentence each: no base, added tokens, no adapter, numbers that are none, a model of another architecture."""
    for config, told in (
        ({"base": None, "base_model": None}, "does not say on which model"),
        ({"added_tokens": ["<a>", "<b>"]}, "2 added tokens"),
        ({"fine_tune_type": "full"}, "'full', which is no adapter"),
    ):
        with pytest.raises(CheckpointError, match=told):
            open_saved(str(changed(own, tmp_path / told[:8], **config)))
    broken = changed(own, tmp_path / "broken")
    arrays = load_arrays(broken / "adapters.safetensors")
    first = min(arrays)
    mx.save_safetensors(str(broken / "adapters.safetensors"), {**arrays, first: arrays[first] * float("nan")})
    with pytest.raises(CheckpointError, match=f"{first} has numbers that are not finite"):
        open_saved(str(broken))
    lacking = changed(own, tmp_path / "lacking")
    mx.save_safetensors(str(lacking / "adapters.safetensors"), {name: arrays[name] for name in arrays if name != first})
    settings = json.loads((own / "adapter_config.json").read_text())["lora_parameters"]
    for folder in (lacking, changed(own, tmp_path / "rank", lora_parameters={**settings, "rank": 9})):
        with pytest.raises(CheckpointError, match="trained on another model or rank"):
            open_saved(str(folder))
    other = write_folder("qwen2_vl", tmp_path / "other")
    with pytest.raises(CheckpointError, match="parameters have other names or shapes"):
        open_saved(str(own), str(other))
