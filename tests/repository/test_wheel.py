"""A wheel without a checkout: it is built, installed, and trains a recipe that it brings."""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "recipes", "vlora")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def run(*command: str | Path, folder: Path) -> str:
    """Run a program that knows nothing of the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a source distribution of a copy of the checkout, beside which building leaves files."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    for source in (ROOT / name for name in BUILT_FROM):
        if source.is_dir():
            shutil.copytree(source, folder / source.name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy(source, folder)
    run(sys.executable, "-c", BUILD, "build_sdist", folder / "dist", folder=folder)
    (source_distribution,) = (folder / "dist").iterdir()
    # Python 3.11.3 and older have no filters, and from 3.12 on one is to be named.
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    shutil.unpack_archive(source_distribution, folder / "unpacked", **options)
    (unpacked,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", BUILD, "build_wheel", folder / "dist", folder=unpacked)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_it_has_every_file(wheel: Path) -> None:
    """Of the package, of whatever kind, and the recipes once; nothing else lies at its top."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    files = [file for file in (ROOT / "vlora").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    recipes = [f"vlora/recipes/{file.name}" for file in (ROOT / "recipes").glob("*.toml")]
    expected = {*recipes, *(file.relative_to(ROOT).as_posix() for file in files)}

    assert sorted(names) == sorted(expected)


def test_it_trains(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which sees the libraries that the tests see."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment", folder=tmp_path)
    python = tmp_path / "environment" / "bin" / "python"
    (own,) = (tmp_path / "environment" / "lib").glob("python*/site-packages")
    # Folders that a file like this names are not searched for further ones: an editable vlora there stays unseen.
    (own / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(own)

    assert run(python, "-c", "import vlora; print(vlora.__file__)", folder=tmp_path).startswith(str(own))
    printed = run(python, "-m", "vlora", "init", "--recipe", "quickstart", "my.toml", folder=tmp_path)
    assert printed.startswith("written to my.toml: Teach")
    keys = "train.iters=2 train.batch_size=4 train.steps_per_report=1 train.val_batches=1 eval.answer_rows=0"
    sets = [f"--set={assignment}" for assignment in keys.split()]
    printed = run(python, "-m", "vlora", "my.toml", *sets, folder=tmp_path)

    assert "step 2/2  loss" in printed
    assert (tmp_path / "runs" / "quickstart" / "model" / "config.json").is_file()
