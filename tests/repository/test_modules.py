"""How modules are kept: a test file of each one's name, sizes that can be read, words that say what they mean."""

import ast
import re
from pathlib import Path

import pytest

import vlora

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vlora"
MODULES = sorted(PACKAGE.rglob("*.py"))

NEED_NONE = {
    "__main__": "starts the command line; tests/cli has its tests",
    "compilation/__main__": "starts a worker; tests/compilation/test_known_kernels.py starts some",
    "facts": "records; tests/cli/test_sentences.py has what is said of them",
    **dict.fromkeys(
        (f"models/families/{name}" for name in ("florence", "got", "inkling", "muse", "nemotron", "plain")),
        "entries of the table of families without code; tests/models/families/test_registry.py proves them",
    ),
    "models/families/pieces": "pieces of chat templates; the families that have them write rows with them",
    "train/backbone": "a protocol, which mypy holds models and tests to",
}
"""Modules without a test file, and why. An `__init__` only says what its folder is for."""

TESTED_ELSEWHERE: tuple[str, ...] = ()
"""Modules that only the tests of others run so far. The list may only become shorter."""

MOST_LINES = 350
LONG_FILES: dict[str, str] = {}
"""Files of more lines, and why."""

LONGEST_FUNCTION = 45
LONG_FUNCTIONS: dict[str, str] = {}
"""Functions of more lines, without their docstring, and why."""

VAGUE = re.compile(r"\b(whoever|nobody|company|let_go|portions?|lean)\b", re.IGNORECASE)
"""Words of earlier names and sentences for which the field has better ones."""
OLD_NAMES = '    "let_go": "unbind",'
"""A public name of 0.1 that resolves for one release."""


def name_of(module: Path) -> str:
    """Give a file's place in the package, without its suffix."""
    return module.relative_to(PACKAGE).with_suffix("").as_posix()


def long_functions(module: Path) -> dict[str, int]:
    """Count the lines of a file's functions that have too many, docstrings left out."""
    found = {}
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0]
        n_said = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) is not None else 0
        n_lines = (node.end_lineno or 0) - node.lineno + 1 - n_said
        if n_lines > LONGEST_FUNCTION:
            found[f"{name_of(module)}:{node.name}"] = n_lines
    return found


def test_every_module_has_a_test_file_of_its_name() -> None:
    """`vlora/data/rows.py` is tested by `tests/data/test_rows.py`; what has none is listed above."""
    missing = {
        name_of(module)
        for module in MODULES
        if module.name != "__init__.py"
        and not (ROOT / "tests" / module.relative_to(PACKAGE)).with_name(f"test_{module.name}").is_file()
    }
    listed = {*NEED_NONE, *TESTED_ELSEWHERE}

    assert not missing - listed, "these modules need a test file of their name"
    assert not listed - missing, "these have one now: take them off the list"


def test_files_can_be_read_at_once() -> None:
    """A file of more lines needs its reason."""
    found = {name_of(module) for module in MODULES if len(module.read_text(encoding="utf-8").splitlines()) > MOST_LINES}

    assert found == set(LONG_FILES)


def test_functions_fit_a_screen() -> None:
    """A function of more lines needs its reason."""
    found = {name: n_lines for module in MODULES for name, n_lines in long_functions(module).items()}

    assert set(found) == set(LONG_FUNCTIONS), found


def test_a_long_function_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its docstring is not counted, and a nested one is."""
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    file, lines = tmp_path / "a.py", "\n".join("        pass" for _ in range(LONGEST_FUNCTION))
    said = "\n".join("        said" for _ in range(LONGEST_FUNCTION))
    file.write_text(f'class A:\n    def long(self):\n{lines}\n\n    def short(self):\n        """{said}"""\n')

    assert long_functions(file) == {"a:long": LONGEST_FUNCTION + 1}


def test_words_say_what_they_mean() -> None:
    """No sentence and no name has one of the words that were given up."""
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted(PACKAGE.rglob("*"))
        if file.suffix in (".py", ".md", ".cu", ".tsv", ".toml")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if VAGUE.search(line) and line != OLD_NAMES
    ]

    assert not found


def test_public_names_of_0_1_are_no_names_here() -> None:
    """A name that resolves to another one for a release is not given to anything else meanwhile."""
    old = re.compile(rf"\b({'|'.join(vlora.RENAMED)})\b")
    found = [name_of(module) for module in MODULES if old.search(module.read_text(encoding="utf-8"))]

    assert found == ["__init__"]
