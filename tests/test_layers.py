"""The house's rules, run: who may import whom, who may print, who may touch the disk."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vlora"
RANKS = {
    "redaction": -2,
    "errors": -1,
    "files": 0,
    "inline": 0,
    "leaving": 0,
    "endings": 0,
    "blas": 0,
    "caching": 0,
    "checksums": 0,
    "private": 0,
    "package": -1,
    "soundness": 1,
    "cli_screen": 0,
    "signals": 0,
    "unforeseen": 0,
    "nvrtc": 1,
    "portions": 1,
    "rules": 1,
    "types": 1,
    "urls": 1,
    "sizes": 1,
    "boxes": 3,
    "structuring": 0,
    "checks": 1,
    "headers": 1,
    "schemas": 2,
    "documents": 3,
    "exponentials": 1,
    "kernels": 2,
    "recipe": 2,
    "written_json": -3,
    "values": 0,
    "jsontext": 2,
    "columns": 1,
    "marks": 2,
    "calls": 3,
    "tables": 2,
    "spans": 1,
    "splits": 1,
    "textfiles": 2,
    "imagefolders": 3,
    "sources": 4,
    "pictures": 3,
    "messages": 4,
    "layouts": 5,
    "placing": 5,
    "samples": 6,
    "masks": 2,
    "skeletons": 3,
    "spelling": 2,
    "tapes": 2,
    "liveness": 3,
    "losses": 3,
    "events": 3,
    "prefetch": 2,
    "cuts": 2,
    "batches": 2,
    "checkpoint": 2,
    "digits": 2,
    "limits": 4,
    "lock": 3,
    "outputs": 3,
    "resuming": 3,
    "aside": 4,
    "metrics": 4,
    "packing": 3,
    "schedules": 3,
    "targets": 3,
    "options": 3,
    "rows": 7,
    "consumed": 8,
    "gradients": 3,
    "frozen": 4,
    "recompute": 4,
    "optimizers": 4,
    "adapters": 5,
    "steps": 6,
    "loop": 7,
    "backend": 7,
    "rebuild": 0,
    "compiling": 5,
    "session": 8,
    "inspection": 9,
    "census": 9,
    "cli_rows": 12,
    "plan": 9,
    "reading": 9,
    "shortage": 10,
    "driver": 11,
    "doctor": 12,
    "cli": 13,
    "lora": 14,
    "__init__": 14,
    "__main__": 14,
}
PURE = (
    "rules",
    "redaction",
    "sizes",
    "boxes",
    "inline",
    "liveness",
    "tapes",
    "portions",
    "types",
    "recipe",
    "structuring",
    "checks",
    "schemas",
    "samples",
    "values",
    "calls",
    "columns",
    "jsontext",
    "cuts",
    "spans",
    "splits",
    "layouts",
    "marks",
    "messages",
    "pictures",
    "placing",
    "masks",
    "skeletons",
    "spelling",
    "batches",
    "packing",
    "losses",
    "schedules",
    "targets",
    "gradients",
    "exponentials",
    "kernels",
    "frozen",
    "recompute",
    "adapters",
    "optimizers",
    "options",
    "steps",
)
IMPURE_MODULES = {"os", "pathlib", "time", "random", "socket", "subprocess", "urllib", "requests", "shutil", "datasets"}
IMPURE_CALLS = {"open", "print", "input"}
PROCESS_WIDE = {"mx.stream", "mx.set_default_device", "mx.set_default_stream", "mx.random.seed"}
"""MLX keeps the default device of all threads in one variable; so a thread that changes it, even for the time of a
`with`, moves what other threads build. Random numbers without a key depend on what was drawn before."""
REASON = "# stream: "
"""Begins the comment that says why a line may do so all the same."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def rank_of(module: Path) -> int:
    """Give a module's rank; the files of a sub-package share one."""
    return RANKS[module.relative_to(PACKAGE).parts[0].removesuffix(".py")]


def relative_imports(module: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, name of the top-level module) of every import within the package, inside functions too."""
    depth = len(module.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module.partition(".")[0]] if node.module else [alias.name for alias in node.names]
            yield from ((node.lineno, name) for name in names)


def absolute_imports(module: Path) -> Iterator[str]:
    """Yield the top-level name of every absolute import."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def test_every_module_has_a_rank() -> None:
    """A new module needs a place in the house before it is moved in."""
    found = {module.relative_to(PACKAGE).parts[0].removesuffix(".py") for module in MODULES}

    assert found == set(RANKS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(module: Path) -> None:
    """A module imports only from strictly lower ranks."""
    wrong = [
        f"{module.name}:{line} imports {name}"
        for line, name in relative_imports(module)
        if RANKS[name] >= rank_of(module)
    ]

    assert not wrong


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_place_talks_to_mlx_vlm(module: Path) -> None:
    """Only the backend imports mlx-vlm or transformers, few read datasets, nothing imports vlora absolutely."""
    imports = set(absolute_imports(module))
    place = module.relative_to(PACKAGE).parts[0]

    assert place == "backend" or not imports & {"mlx_vlm", "transformers", "tokenizers"}
    assert place in ("sources.py", "tables.py") or "datasets" not in imports
    assert "vlora" not in imports


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(module: Path) -> None:
    """No module but the command line prints or knows of consoles."""
    if module.name in ("cli.py", "cli_rows.py", "cli_screen.py", "lora.py"):
        return
    calls = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]

    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not {"rich", "argparse"} & set(absolute_imports(module)) or module.name == "options.py"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_process_wide_is_changed(module: Path) -> None:
    """The default device and stream stay as they are, but on lines that say why another one is safe."""
    text = module.read_text()
    lines = text.splitlines()
    found = [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in PROCESS_WIDE
    ]

    assert not [line for line in found if REASON not in lines[line - 1]]


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_are_pure(name: str) -> None:
    """Pure modules know no disk, network, clock or global random state."""
    module = PACKAGE / f"{name}.py"
    tree = ast.parse(module.read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    drawn = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith(("mx.random.", "np.random."))
        and not ast.unparse(node.func).startswith(("np.random.default_rng", "mx.random.key", "mx.random.split"))
        and not any(keyword.arg == "key" for keyword in node.keywords)
    ]

    assert not set(absolute_imports(module)) & IMPURE_MODULES
    assert not called & IMPURE_CALLS
    assert not drawn
