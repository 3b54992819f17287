"""What the checks of a model's setup found is remembered, and only for the same model, code and device."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlora import models
from vlora.memory.limits import describe_device
from vlora.models.backbone import fused, outcomes
from vlora.recipe.schema import ModelSection

Found = tuple[Any, int, bool]
Load = Callable[..., Found]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vlora" / "checks"


@pytest.fixture
def load(checkpoint: Callable[[str], Path]) -> Load:
    """Load a model and give what its checks found, as numbers and names."""

    def run(family: str = "qwen3_vl", **section: Any) -> Found:
        model = ModelSection(path=str(checkpoint(family)), **section)
        backbone, _ = models.load_backbone(models.find_model(model), model)
        parts = backbone.fused_modules
        return backbone.head, len(parts.replacements), parts.angles is not None

    return run


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which checks are made."""
    made: list[str] = []
    settle, gated, rotates = models.MlxVlmBackbone.detect_head, fused.is_swiglu, fused._rotates_halves

    def noting(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **keywords: object) -> object:
            made.append(name)
            return function(*arguments, **keywords)

        return run

    monkeypatch.setattr(models.MlxVlmBackbone, "detect_head", noting("head", settle))
    monkeypatch.setattr(fused, "is_swiglu", noting("gated", gated))
    monkeypatch.setattr(fused, "_rotates_halves", noting("rotates", rotates))
    return made


def test_a_second_load_checks_nothing(load: Load, checks: list[str], cache: Path) -> None:
    """It runs what the first one found."""
    first = load()
    assert set(checks) == {"head", "gated", "rotates"}
    assert first[0] is not None
    checks.clear()

    assert load() == first
    assert not checks
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("change", ["code", "device", "quantized"])
def test_another_model_code_or_device_is_checked(
    load: Load, checks: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Nothing is believed of another one."""
    load()
    checks.clear()
    if change == "code":
        monkeypatch.setattr(outcomes, "code_fingerprint", lambda: "other")
    if change == "device":
        device = describe_device()
        monkeypatch.setattr(outcomes, "describe_device", lambda: type(device)(kind="cuda", name="B", memory_bytes=1))
    load(**{"quantize_bits": 4} if change == "quantized" else {})

    assert set(checks) == {"head", "gated", "rotates"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "[]",
        lambda text: text.replace('"key"', '"kex"'),
        lambda text: json.dumps({**json.loads(text), "found": {"head": {"name": "nowhere"}}}),
        lambda text: json.dumps({**json.loads(text), "found": {"head": {"name": ["x"], "is_tied": 1, "stack": 2}}}),
    ],
    ids=["half", "list", "keyless", "foreign", "untyped"],
)
def test_a_damaged_file_is_ignored(load: Load, checks: list[str], cache: Path, damage: Callable[[str], str]) -> None:
    """And written anew."""
    first = load()
    (file,) = cache.iterdir()
    whole = file.read_text()
    file.write_text(damage(whole))
    checks.clear()

    assert load() == first
    assert "head" in checks
    assert json.loads(file.read_text()) == json.loads(whole)


def test_a_folder_that_cannot_be_written_remembers_nothing(load: Load, checks: list[str], cache: Path) -> None:
    """The model is set up all the same."""
    cache.parent.mkdir()
    cache.write_text("a file")
    first = load()
    checks.clear()

    assert load() == first
    assert "head" in checks


@pytest.mark.parametrize("how", ["mode", "link"])
def test_what_somebody_else_may_have_found_is_not_believed(
    how: str, load: Load, checks: list[str], cache: Path, tmp_path: Path
) -> None:
    """A file that others may write, or a link: the checks are made again."""
    load()
    (file,) = cache.iterdir()
    made = len(checks)
    if how == "mode":
        file.chmod(0o666)
    else:
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    load()
    assert len(checks) == 2 * made > 0
