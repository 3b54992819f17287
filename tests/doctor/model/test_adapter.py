"""Adapters that are not saved as they are trained are found."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.checking import subject_of
from vlora.adapters.attached import adapter_state_dict
from vlora.doctor.model import adapter
from vlora.doctor.model.subject import LeftOut
from vlora.errors import CheckError


def test_what_is_saved_is_what_is_trained(tmp_path: Path) -> None:
    """The adapter comes back from its file, and the subject can be checked on."""
    subject = subject_of("llava")
    before = dict(subject.params)

    assert "14 layers" in str(adapter.check_adapter(subject, tmp_path))
    assert (tmp_path / "adapter_config.json").is_file()
    assert all(mx.array_equal(value, before[name]) for name, value in subject.params.items())
    assert "14 layers" in str(adapter.check_adapter(subject, tmp_path))


def renamed(module: Any, params: Any) -> dict[str, mx.array]:
    """Save under the names of another framework."""
    return {f"base_model.{name}": value for name, value in adapter_state_dict(module, params).items()}


def exchanged(module: Any, params: Any) -> dict[str, mx.array]:
    """Save two layers of one shape under each other's names."""
    arrays = adapter_state_dict(module, params)
    first, second = (f"language_model.model.layers.{layer}.self_attn.q_proj.lora_b" for layer in (0, 1))
    return {**arrays, first: arrays[second], second: arrays[first]}


@pytest.mark.parametrize(
    ("damage", "told"),
    [(renamed, "cannot be attached again: .* does not fit the model at base_model."), (exchanged, "not what is saved")],
)
def test_wrong_names_are_found(damage: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that the model does not have are found when they are read, exchanged ones by their logits."""
    subject = subject_of("llava")
    monkeypatch.setattr(adapter, "adapter_state_dict", damage)

    with pytest.raises(CheckError, match=told):
        adapter.check_adapter(subject, tmp_path)


def test_an_adapter_that_adds_nothing_is_found(tmp_path: Path) -> None:
    """Equal logits mean nothing where the adapter's B is zero."""
    subject = subject_of("llava")
    subject.params = {
        name: mx.zeros_like(value) if name.endswith("lora_b") else value for name, value in subject.params.items()
    }

    with pytest.raises(CheckError, match="the adapter adds nothing to the logits"):
        adapter.check_adapter(subject, tmp_path)


def test_full_fine_tuning_has_no_adapter(tmp_path: Path) -> None:
    """It is left out, and says so."""
    subject = subject_of("llava")
    subject.config = {"fine_tune_type": "full"}

    assert adapter.check_adapter(subject, tmp_path) == LeftOut("full fine-tuning saves a model, no adapter")
