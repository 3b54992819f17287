"""Packages that the code imports are those that an installation brings."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import vlora

ROOT = Path(__file__).parents[2]
NAMES = {"PIL": "pillow", "sklearn": "scikit-learn"}
"""Packages that are imported under another name than they are installed under."""


def normalize(name: str) -> str:
    """Write a package's name as indexes compare it."""
    return NAMES.get(name, name).replace("_", "-").lower()


def imported(text: str) -> set[str]:
    """List the packages that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"vlora"}


def test_what_is_imported_is_required() -> None:
    """None is there by chance, because another package brings it today."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [
        *project["dependencies"],
        *(name for names in project["optional-dependencies"].values() for name in names),
    ]
    declared = {normalize(re.split(r"[\[<>=,; ]", requirement)[0]) for requirement in required}
    found = {
        normalize(name)
        for module in Path(vlora.__file__).parent.rglob("*.py")
        for name in imported(module.read_text(encoding="utf-8"))
    }

    assert "datasets" in found
    assert not found - declared
