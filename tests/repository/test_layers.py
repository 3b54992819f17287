"""The rules of the package: which folder imports from which, who may print, who may touch the disk."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "vlora"
ORDER = (
    "system",
    "arguments errors types",
    "cuts facts scores measured",
    "events",
    "ops recipe",
    "features data adapters memory output evaluation",
    "train compilation",
    "models",
    "build",
    "estimate",
    "run",
    "doctor report trackers",
    "export",
    "cli",
    "moved",
    "lora __main__ __init__",
)
"""Folders and modules of the package, lowest first: a file imports from its own folder and from earlier entries.
Those of one entry do not know each other."""
RANKS = {name: rank for rank, names in enumerate(ORDER) for name in names.split()}
PURE = (
    *("recipe", "ops", "adapters", "train", "data", "memory/command_buffers"),
    *("estimate/graph", "estimate/liveness", "estimate/rematerialize", "estimate/simplify"),
)
IMPURE = (
    "ops/blas",
    "ops/cuda_sources",
    "ops/nvrtc",
    "train/ahead",
    "train/loop",
    "train/ranks",
    "data/readers",
    "data/rows",
    "data/opening",
    "data/mixing",
    "data/prefetch",
)
"""Parts of these that do touch the disk, the clock, the network or threads."""
PURE_AFTER_ALL = ("data/readers/record_spans", "data/readers/inline_images")
IMPURE_MODULES = {"os", "pathlib", "time", "random", "socket", "subprocess", "urllib", "requests", "shutil", "datasets"}
IMPURE_CALLS = {"open", "print", "input"}
PROCESS_WIDE = {"mx.stream", "mx.set_default_device", "mx.set_default_stream", "mx.random.seed"}
"""MLX keeps the default device of all threads in one variable; so a thread that changes it, even for the time of a
`with`, moves what other threads build. Random numbers without a key depend on what was drawn before."""
REASON = "# stream: "
"""Begins the comment that says why a line may do so all the same."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(module: Path) -> str:
    """Give a file's place in the package, without its suffix."""
    return module.relative_to(PACKAGE).with_suffix("").as_posix()


def is_in(module: Path, places: tuple[str, ...]) -> bool:
    """Whether a file is one of these places or lies in one."""
    return any(f"{name_of(module)}/".startswith(f"{place}/") for place in places)


def room_of(module: Path) -> str:
    """Give the folder of the package that a file lies in, or its own name if it lies beside the folders."""
    return name_of(module).partition("/")[0]


@functools.cache
def nodes_of(module: Path) -> tuple[ast.AST, ...]:
    """Parse a file; give all nodes of its tree."""
    return tuple(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))


def relative_imports(module: Path) -> Iterator[tuple[int, Path]]:
    """Yield (line, file) of every import within the package, inside functions too."""
    folder = module.parent
    for node in nodes_of(module):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = folder if node.level == 1 else folder.parents[node.level - 2]
        base = base.joinpath(*(node.module or "").split(".")) if node.module else base
        for alias in node.names:
            found = (base / f"{alias.name}.py", base / alias.name / "__init__.py", base.with_suffix(".py"))
            yield node.lineno, next((file for file in found if file.is_file()), base / "__init__.py")


def absolute_imports(module: Path) -> Iterator[str]:
    """Yield the top-level name of every absolute import."""
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def calls_of(module: Path) -> list[ast.Call]:
    """List the calls in a file."""
    return [node for node in nodes_of(module) if isinstance(node, ast.Call)]


def called_names(module: Path) -> set[str]:
    """Collect the plain names that a file calls."""
    return {call.func.id for call in calls_of(module) if isinstance(call.func, ast.Name)}


def test_every_folder_has_a_place() -> None:
    """A new folder needs a place in the order before it is moved in."""
    assert {room_of(module) for module in MODULES} == set(RANKS)


def test_imports_go_down() -> None:
    """A file imports from its own folder and from earlier entries of the order only."""
    wrong = [
        f"{name_of(module)}:{line} imports {name_of(file)}"
        for module in MODULES
        for line, file in relative_imports(module)
        if room_of(file) != room_of(module) and RANKS[room_of(file)] >= RANKS[room_of(module)]
    ]

    assert not wrong


def test_no_circle() -> None:
    """Files of one folder import each other in one direction; a folder's `__init__` is imported with its files."""
    arrows = {module: {file for _, file in relative_imports(module)} - {module} for module in MODULES}
    left = dict(arrows)
    while free := [module for module, above in left.items() if not above & set(left)]:
        for module in free:
            del left[module]

    assert not sorted(map(name_of, left))


def test_one_place_talks_to_mlx_vlm() -> None:
    """Only `models` imports mlx-vlm or transformers, only `data.readers` datasets, nothing imports vlora absolutely."""
    imports = {module: set(absolute_imports(module)) for module in MODULES}
    outside = [module for module in MODULES if room_of(module) != "models"]
    of_transformers = [
        name_of(module) for module in outside if imports[module] & {"mlx_vlm", "transformers", "tokenizers"}
    ]
    of_datasets = [
        name_of(module) for module in MODULES if not is_in(module, ("data/readers",)) and "datasets" in imports[module]
    ]

    assert not of_transformers
    assert not of_datasets
    assert not [name_of(module) for module in MODULES if "vlora" in imports[module]]


def test_only_the_command_line_prints() -> None:
    """No module but the command line prints or knows of consoles."""
    silent = [module for module in MODULES if room_of(module) not in ("cli", "lora")]
    of_consoles = {name_of(module) for module in silent if {"rich", "argparse"} & set(absolute_imports(module))}

    assert not [name_of(module) for module in silent if "print" in called_names(module)]
    assert of_consoles <= {"recipe/legacy"}


def test_nothing_process_wide_is_changed() -> None:
    """The default device and stream stay as they are, but on lines that say why another one is safe."""
    last_names = {name.rpartition(".")[2] for name in PROCESS_WIDE}
    wrong = []
    for module in MODULES:
        lines = module.read_text(encoding="utf-8").splitlines()
        wrong += [
            f"{name_of(module)}:{node.lineno}"
            for node in nodes_of(module)
            if isinstance(node, ast.Attribute)
            and node.attr in last_names
            and ast.unparse(node) in PROCESS_WIDE
            and REASON not in lines[node.lineno - 1]
        ]

    assert not wrong


def test_pure_modules_are_pure() -> None:
    """Pure modules know no disk, network, clock or global random state."""
    pure = [
        module
        for module in MODULES
        if (is_in(module, PURE) and not is_in(module, IMPURE))
        or is_in(module, PURE_AFTER_ALL)
        or name_of(module) == "types"
    ]
    drawn = [
        f"{name_of(module)}:{call.lineno}"
        for module in pure
        for call in calls_of(module)
        if ast.unparse(call.func).startswith(("mx.random.", "np.random."))
        and not ast.unparse(call.func).startswith(("np.random.default_rng", "mx.random.key", "mx.random.split"))
        and not any(keyword.arg == "key" for keyword in call.keywords)
    ]

    assert len(pure) > 50
    assert not [name_of(module) for module in pure if set(absolute_imports(module)) & IMPURE_MODULES]
    assert not [name_of(module) for module in pure if called_names(module) & IMPURE_CALLS]
    assert not drawn
