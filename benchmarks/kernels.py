"""List the kernels that MLX has compiled, as `vlora/compilation/known_kernels.tsv` has them.

    python -m benchmarks.kernels [--check] FOLDER ... > vlora/compilation/known_kernels.tsv
    python -m benchmarks.kernels [--check] --for preferences FOLDER ... > vlora/compilation/preference_kernels.tsv
    python -m benchmarks.kernels [--check] --for tests FOLDER ... > tests/known_kernels.tsv

Each FOLDER is one that MLX has put kernels into, with their sources, for a CPU or an NVIDIA GPU; the kernels that were
needed first come first. What is listed already stays, and is not listed twice. What cannot be made again from its name
is left out and counted on the error output; with --check each new one is made again, which takes a while, and left out
if its file does not appear. With --for the list is that of what runs over preferences, or the tests, need besides.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from vlora.compilation.kernel_list import KNOWN_KERNELS, MLX_VERSION, PREFERENCE_KERNELS, Known, read_known
from vlora.compilation.kernel_names import (
    FILE_ID,
    INDEXING,
    LONGEST_NAME,
    UnknownNameError,
    kernel_file,
    parse_constant,
)
from vlora.compilation.rebuild import rebuild
from vlora.compilation.start import WORK_PREFIX

FURTHER = {
    "preferences": PREFERENCE_KERNELS,
    # Compiled by tests/conftest.py.
    "tests": Path(__file__).parent.parent / "tests" / "known_kernels.tsv",
}
"""Lists of what is needed besides."""

TYPES = {
    "float": "float32",
    "double": "float64",
    "__half": "float16",
    "float16_t": "float16",
    "__nv_bfloat16": "bfloat16",
    "bfloat16_t": "bfloat16",
    "bool": "bool",
    **{f"{sign}int{bits}_t": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""What sources call types."""

VALUE = r"(?P<value>-?(?:[\d.]+(?:e[+-]?\d+)?|NAN|INFINITY)|true|false)"
CONSTANT = re.compile(rf"^ +(?P<type>\w+) tmp_[A-Z]+ = (?:static_cast<\w+>\()?{VALUE}\)?;$", re.MULTILINE)


def list_folder(folder: Path) -> Iterator[Known]:
    """Yield the kernels whose sources are in a folder, the oldest first."""
    files = sorted((file for kind in ("*.cpp", "*.cu") for file in folder.rglob(kind)), key=lambda f: f.stat().st_mtime)
    for file in files:
        if any(part.startswith(WORK_PREFIX) for part in file.parts):
            continue
        source = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix == ".cpp":
            found = re.search(r"^void (\w+)\(int\* shape", source, re.MULTILINE)
            is_long = found is not None and len(found[1]) > LONGEST_NAME
            # One that did not compile has no file of its name yet.
            if found is not None and (not is_long or file.stem.startswith(found[1][: LONGEST_NAME - FILE_ID])):
                yield Known("cpu", found[1], file.stem[-FILE_ID:] if is_long else "", tuple(list_constants(source)))
        else:
            # A name that is too long for a file goes on in a folder of its beginning.
            name = "".join(file.relative_to(folder).with_suffix("").parts)
            once = source.partition("_strided(")[0]
            constants = () if INDEXING.fullmatch(name) else tuple(list_constants(once))
            yield Known("cuda", name, "", constants)


def list_constants(source: str) -> Iterator[str]:
    """Yield the constants of a source, in order, as `kernel_names.parse_constant` reads them."""
    for found in CONSTANT.finditer(source):
        yield f"{TYPES[found['type']]} {found['value']}"


def is_known_form(known: Known) -> bool:
    """Whether a name spells what `rebuild` can make."""
    if INDEXING.fullmatch(known.name):
        return True
    try:
        rebuild(known.name, [parse_constant(text) for text in known.constants])
    except UnknownNameError:
        return False
    return True


def check(kernels: list[Known]) -> list[Known]:
    """Make kernels of one kind again in a process of its own, and give those whose files appear."""
    with tempfile.TemporaryDirectory() as folder:
        own, common, claims = (Path(folder) / name for name in ("own", "common", "claims"))
        own.mkdir()
        claims.mkdir()
        kind = kernels[0].kind
        words = [kind, own, common, claims, len(kernels)]
        subprocess.run(
            [sys.executable, "-P", KNOWN_KERNELS.with_name("__main__.py"), *map(str, words)],
            input="\n".join(known.line for known in kernels),
            text=True,
            check=True,
            env={**os.environ, "TMPDIR": str(own), "MLX_PTX_CACHE_DIR": str(own)},
        )
        return [known for known in kernels if (common / kernel_file(kind, known.name, known.file_id)).exists()]


def main() -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--check", action="store_true", help="make each new kernel again")
    parser.add_argument("--weights", default="", metavar="TYPE", help="new ones are for weights of this type (F32)")
    parser.add_argument("--for", dest="user", choices=FURTHER, help="list what these need besides what all runs need")
    given = parser.parse_args()
    listed = list(read_known())
    places = {(known.kind, known.name) for known in listed}
    if given.user:
        listed = list(read_known(FURTHER[given.user])) if FURTHER[given.user].exists() else []
        places |= {(known.kind, known.name) for known in listed}
    new: dict[tuple[str, str], Known] = {}
    n_unknown = 0
    for folder in given.folders:
        for known in list_folder(folder):
            if (known.kind, known.name) in places:
                continue
            if is_known_form(known):
                new.setdefault((known.kind, known.name), attrs.evolve(known, weights=given.weights))
            else:
                n_unknown += 1
                print(f"left out, not known: {known.kind} {known.name}", file=sys.stderr)
    for kind in ("cpu", "cuda"):
        of_kind = [known for known in new.values() if known.kind == kind]
        made = check(of_kind) if given.check and of_kind else of_kind
        for known in of_kind:
            if known not in made:
                n_unknown += 1
                print(f"left out, makes another one: {known.kind} {known.name}", file=sys.stderr)
        listed += made
    print(f"# {MLX_VERSION}")
    for known in sorted(listed, key=lambda known: known.kind):
        columns = [known.kind, known.name, known.file_id, json.dumps(known.constants)]
        print("\t".join([*columns, known.weights] if known.weights else columns))
    print(f"{len(listed)} kernels, {n_unknown} left out", file=sys.stderr)


if __name__ == "__main__":
    main()
