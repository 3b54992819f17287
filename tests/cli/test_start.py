"""The start: whatever is wrong with a recipe shows before the libraries that take seconds to import are asked for."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlora
from vlora.data.opening import check_paths, read_rows
from vlora.data.readers import digits
from vlora.errors import RecipeError
from vlora.ops import blas
from vlora.recipe.schema import DataSection

ROOT = Path(__file__).parents[2]
HEAVY = {"datasets", "mlx_vlm", "pandas", "scipy", "sklearn", "torch", "transformers"}

DRIVER = """
import json, sys

before = set(sys.modules)
{code}
tops = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print("\\n" + json.dumps(sorted(tops)))
"""

COMMAND = """
from vlora.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as stopped:
    status = stopped.code
print(f"status {status}")
"""


def run_fresh(code: str, arguments: list[str], folder: Path) -> tuple[set[str], str, str]:
    """Run code in a process of its own; give the top-level modules that it imports, its output and its complaints."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER.format(code=code), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    printed, _, modules = done.stdout.rstrip().rpartition("\n")
    return set(json.loads(modules)), printed, done.stderr


def test_importing_vlora_is_light(tmp_path: Path) -> None:
    """Importing vlora, and parsing a recipe with it, imports neither MLX nor anything that is large."""
    modules, _, _ = run_fresh("import vlora", [], tmp_path)
    assert "vlora" in modules
    assert not modules & {*HEAVY, "mlx", "numpy", "rich"}

    modules, printed, _ = run_fresh(
        """
import vlora
print(vlora.parse_recipe('[data]\\npath = "a.jsonl"').data.path)
""",
        [],
        tmp_path,
    )
    assert "a.jsonl" in printed
    assert not modules & {*HEAVY, "mlx", "numpy", "rich"}


@pytest.mark.parametrize("command", [[], ["train"], ["inspect"], ["plan"], ["--version"]])
def test_help_is_light(command: list[str], tmp_path: Path) -> None:
    """`--help` needs none of the libraries that carry a command out, nor MLX or NumPy."""
    modules, printed, _ = run_fresh(COMMAND, command if "--version" in command else [*command, "--help"], tmp_path)

    assert " ".join(["usage: python -m vlora", *command]).replace(" train", " [train]") in printed or (
        printed.startswith("vlora ") and "\nmlx " in printed
    )
    assert "status 0" in printed
    assert not modules & {*HEAVY, "mlx", "numpy"}


@pytest.mark.parametrize("command", ["init", "doctor"])
def test_help_of_commands_without_a_recipe_is_light(command: str, tmp_path: Path) -> None:
    """They take none of the options that change a recipe."""
    modules, printed, _ = run_fresh(COMMAND, [command, "--help"], tmp_path)

    assert f"usage: python -m vlora {command}" in printed
    assert "--lora-rank" not in printed
    assert "status 0" in printed
    assert not modules & {*HEAVY, "mlx"}


def test_listing_recipes_is_light(tmp_path: Path) -> None:
    """The names of the recipes are there at once."""
    modules, printed, _ = run_fresh(COMMAND, ["init"], tmp_path)

    assert "quickstart  " in printed
    assert "status 0" in printed
    assert not modules & {*HEAVY, "mlx"}


RECIPE = """
[model]
path = "builtin:tiny-qwen3-vl"

[data]
path = "builtin:digits"
"""
GOOD = "recipe.toml"
FILES = {
    GOOD: RECIPE,
    "misspelt.toml": RECIPE + "[train]\nitres = 3\nbatch_size = 0\n",
    "contradictory.toml": RECIPE
    + "valid_fraction = 0.1\nvalid_split = 'test'\n[optim]\nname = 'adam'\nweight_decay = 0.1\n",
    "broken.toml": "[data\n",
    "rows.txt": "no rows",
    "rows.jsonl": '{"question": "a", "answer": "b"}\n',
}
MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "misspelt assignment": (
        [GOOD, "--set", "train.itres=3"],
        ["vlora: recipe.toml:", "  train.itres: unknown key; did you mean train.iters?"],
    ),
    "misspelt key": (
        ["misspelt.toml"],
        [
            "vlora: misspelt.toml:",
            "  train.batch_size: found 0, must be at least 1",
            "  train.itres: unknown key; did you mean train.iters?",
        ],
    ),
    "contradiction": (
        ["contradictory.toml"],
        [
            "vlora: contradictory.toml:",
            "  data.valid_split and data.valid_fraction: they exclude one another; keep one",
            "  optim.weight_decay: found 0.1 with optim.name = 'adam', which has none; use 'adamw'",
        ],
    ),
    "no recipe": (
        ["missing.toml"],
        [
            (
                "vlora: missing.toml: cannot read the recipe (No such file or directory); "
                "`python -m vlora init` lists those that come with vlora"
            )
        ],
    ),
    "no TOML": (["broken.toml"], ["vlora: broken.toml:"]),
    "nothing": (
        [],
        ["vlora: give a recipe (`python -m vlora init` lists some), or at least --dataset; --help lists the options"],
    ),
    "no assignment": ([GOOD, "--set", "iters"], ["vlora: --set: found 'iters', expected section.key=value"]),
    "no such rows": (
        [GOOD, "--set", "data.path=rws.jsonl"],
        [
            (
                "vlora: data.path: cannot read 'rws.jsonl' (split 'train'): there is no such file or folder in FOLDER, "
                "where the command runs; did you mean 'rows.jsonl'?"
            )
        ],
    ),
    "no such rows, in folders that no repository has": (
        [GOOD, "--set", "data.path=my/rows/of today"],
        [
            (
                "vlora: data.path: cannot read 'my/rows/of today' (split 'train'): there is no such file or folder in "
                "FOLDER, where the command runs"
            )
        ],
    ),
    "no such validation rows": (
        [GOOD, "--set", "data.path=rows.jsonl", "--set", "data.valid_path=/none/none.csv"],
        ["vlora: data.valid_path: cannot read '/none/none.csv' (split 'train'): there is no such file or folder"],
    ),
    "no rows": (
        [GOOD, "--set", "data.path=rows.txt"],
        [
            (
                "vlora: data.path: cannot read 'rows.txt' (split 'train'): files ending in '.txt' are not read; "
                "give one of .jsonl, .json, .ndjson, .csv, .tsv, .parquet, .arrow, or a folder"
            )
        ],
    ),
    "no such split": (
        [GOOD, "--set", "data.valid_split=dev"],
        ["vlora: data.valid_split: found 'dev', builtin:digits has 'train' and 'test'"],
    ),
    "no second split": (
        [GOOD, "--set", "data.path=rows.jsonl", "--set", "data.valid_split=test"],
        [
            (
                "vlora: data.valid_split: found 'test', 'rows.jsonl' has a single split, which is trained on; "
                "give data.valid_path or data.valid_fraction, or slices of it (train[:90%] and train[90%:])"
            )
        ],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_show_at_once(mistake: str, tmp_path: Path) -> None:
    """A mistake in a recipe ends with status 2 and its sentence, before anything that is large is imported."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    arguments, lines = MISTAKES[mistake]
    modules, printed, complaints = run_fresh(COMMAND, arguments, tmp_path)

    assert printed.strip() == "status 2"
    assert complaints.replace(str(tmp_path), "FOLDER").splitlines()[: len(lines)] == lines
    assert not modules & HEAVY


@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_mistakes_show_at_once_to_other_commands(command: str, tmp_path: Path) -> None:
    """`inspect` and `plan` read and check the recipe first, too."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    # A plan is made without rows, too.
    for mistake in ("misspelt key", "no such rows") if command == "inspect" else ("misspelt key",):
        arguments, lines = MISTAKES[mistake]
        modules, printed, complaints = run_fresh(COMMAND, [command, *arguments], tmp_path)

        assert printed.strip() == "status 2"
        assert complaints.replace(str(tmp_path), "FOLDER").splitlines() == lines
        assert not modules & HEAVY


def test_built_in_rows_need_no_large_library(tmp_path: Path) -> None:
    """The quickstart's rows are read without scikit-learn's code, and without `datasets`."""
    modules, printed, _ = run_fresh(
        """
from vlora.recipe.schema import DataSection
from vlora.data.opening import read_rows
train, _ = read_rows(DataSection(path="builtin:digits"))
print(len(train), train[0].turns[1].text)
""",
        [],
        tmp_path,
    )

    assert printed.startswith("1497 ")
    assert not modules & HEAVY


def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is read has what scikit-learn makes of it; where it is elsewhere, scikit-learn is asked."""
    read = digits.read_table()
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()

    np.testing.assert_array_equal(read[:, :-1], bunch.data)
    np.testing.assert_array_equal(read[:, -1], bunch.target)
    monkeypatch.setattr(digits, "DIGITS_FILE", "elsewhere/digits.csv.gz")
    np.testing.assert_array_equal(digits.read_table(), read)


def test_paths_are_checked_as_rows_are(tmp_path: Path) -> None:
    """What is looked for early is what reading would complain of, in the same words."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(FILES["rows.jsonl"])
    bad: list[dict[str, Any]] = [
        {"path": str(tmp_path / "rws.jsonl")},
        {"path": "x" * 300},
        {"path": str(rows), "valid_path": str(tmp_path / "none")},
        {"path": str(rows), "valid_split": "test"},
        {"path": "builtin:digits", "config": "colour"},
    ]
    for keys in bad:
        with pytest.raises(RecipeError) as early:
            check_paths(DataSection(**keys))
        with pytest.raises(RecipeError) as late:
            read_rows(DataSection(**keys))
        assert str(early.value) == str(late.value)
    check_paths(DataSection(path=str(rows)))
    check_paths(DataSection(path="somebody/on-the-hub", valid_split="test"))


def test_public_names_resolve() -> None:
    """Every public name is there, is what its module has, and is listed; no other one is made up."""
    assert set(vlora.__all__) <= set(dir(vlora))
    assert set(vlora._PLACES) == set(vlora.__all__)
    for name, place in vlora._PLACES.items():
        assert getattr(vlora, name) is getattr(importlib.import_module(f"vlora.{place}" if place else "vlora"), name)
    names: dict[str, Any] = {}
    exec("from vlora import *", names)
    assert set(vlora.__all__) <= set(names)
    with pytest.raises(AttributeError, match="'vlora' has no attribute 'no_such_name'"):
        vlora.no_such_name  # noqa: B018
    with pytest.raises(ImportError):
        exec("from vlora import no_such_name")


def test_programs_that_check_types_see_the_public_names() -> None:
    """What is imported for them is what is imported when it is asked for."""
    tree = ast.parse(Path(vlora.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]

    assert {alias.name: node.module for node in imports for alias in node.names} == vlora._PLACES


def test_blas_comes_before_mlx(tmp_path: Path) -> None:
    """Whatever is asked for first, the fast BLAS is bound before MLX is imported."""
    for first in ("import vlora.types", "from vlora import collate", "from vlora.cli.main import main"):
        _, printed, _ = run_fresh(
            f"""
import importlib.abc
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("mlx.core", "vlora.ops.blas"):
            print(name)
sys.meta_path.insert(0, Watch())
{first}
import mlx.core, vlora.ops.blas
print(vlora.ops.blas.LOADED)
""",
            [],
            tmp_path,
        )

        assert printed.split() == ["vlora.ops.blas", "mlx.core", str(blas.LOADED)]


@pytest.mark.parametrize("old", sorted(vlora.RENAMED))
def test_old_public_names_resolve(old: str) -> None:
    """They are the same functions, and a warning says what they are called now."""
    with pytest.warns(DeprecationWarning, match=rf"vlora\.{old} is called vlora\.{vlora.RENAMED[old]} now"):
        found = getattr(vlora, old)

    assert found is getattr(vlora, vlora.RENAMED[old])
