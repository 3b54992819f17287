"""The releases that vlora was proved with: one place says which, and a run with others says so."""

import argparse
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from tests.releases import check_versions
from vlora.models.proven_versions import PROVEN, describe_unproven, describe_versions

ROOT = Path(__file__).parents[2]


def install(versions: Mapping[str, str], patch: pytest.MonkeyPatch) -> None:
    """Let only these packages be installed."""

    def version(package: str) -> str:
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    patch.setattr(metadata, "version", version)


def test_the_tables_are_of_these_releases() -> None:
    """What people read, and what the tests were last run with, names them."""
    models = ROOT / "vlora" / "models"
    constraints = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / ".ci" / "constraints.txt").read_text(), re.MULTILINE))

    assert f"`python -m tests.prove --write` with {describe_versions(PROVEN)}; " in (models / "families.md").read_text()
    assert f"ran on mlx {PROVEN['mlx']} (CPU) and mlx-vlm {PROVEN['mlx-vlm']}." in (models / "parity.md").read_text()
    assert {package: constraints[package] for package in PROVEN} == PROVEN


@pytest.mark.parametrize("build", ["", "+cuda13"])
def test_proved_releases_need_no_word(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever build of them is installed, or if one is built where nothing says which."""
    install({package: f"{version}{build}" for package, version in PROVEN.items()}, monkeypatch)
    assert describe_unproven() is None

    install({}, monkeypatch)
    assert describe_unproven() is None


def test_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names what is installed and what was proved, of the packages that differ."""
    install({**PROVEN, "mlx": "9.9"}, monkeypatch)
    line = describe_unproven()

    assert line is not None
    assert line.startswith(f"vlora was not proved with mlx 9.9, but with mlx {PROVEN['mlx']}; ")
    assert "\n" not in line


def test_no_table_is_written_for_others(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says where the releases stand."""
    install(PROVEN, monkeypatch)
    check_versions(argparse.ArgumentParser())
    install({**PROVEN, "mlx-vlm": "9.9"}, monkeypatch)
    with pytest.raises(SystemExit):
        check_versions(argparse.ArgumentParser())

    assert "mlx-vlm 9.9" in capsys.readouterr().err
