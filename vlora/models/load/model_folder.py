"""Checks a model's folder before it is loaded: its JSON files and the headers of its weights."""

import fnmatch
import json
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ModelError
from ...system.safetensors_header import HeaderError, read_header
from ..foreign import foreign
from .documents import read_object
from .schemas import SCHEMAS

DESCRIBING = ["*.json", "*.jsonl", "*.py", "*.model", "*.tiktoken", "*.txt", "*.jinja"]
"""Patterns of the files that mlx-vlm downloads from the hub, without those of weights."""

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
APART = "consolidated.safetensors"
"""A second copy of the weights in another layout, beside the shards."""

VOCABULARY = re.compile(r"tokeni[sz]er|vocab|merges|spiece|sentencepiece|tekken|\.bpe|\.tiktoken|\.model$")
"""Parts of the names of tokenizer files."""

LONGEST = 300
"""Longest part of another library's error that is repeated, in characters."""

KEY = "model.path"
"""What errors about a model's files begin with."""

OBJECTS = ("added_tokens.json", "special_tokens_map.json", "tokenizer.json", "vocab.json")
"""Tokenizer files that have to be objects. Others may be lists."""


def check_folder(folder: Path) -> None:
    """Check the files that describe a model and its processor.

    Raises:
        ModelError: One of them is not a regular file, or has invalid values.
    """
    for path in sorted(folder.iterdir()):
        is_named = any(fnmatch.fnmatch(path.name, pattern) for pattern in DESCRIBING)
        if path.name in SCHEMAS and path.name != INDEX_NAME:
            read_object(path, ModelError, KEY)
        elif is_named and not path.is_dir() and not _is_regular(path):
            # Reading a pipe would block.
            msg = f"{path} is no regular file; give a folder with the files of one model"
            raise ModelError(msg, key=KEY)


def check_tokenizer(folder: Path) -> None:
    """Check that there is a vocabulary: without one transformers makes a tokenizer that returns no tokens.

    Raises:
        ModelError: There is none.
    """
    names = {path.name for path in folder.iterdir()} - {"tokenizer_config.json"}
    if not any(VOCABULARY.search(name) for name in names):
        msg = f"{folder} has no tokenizer (tokenizer.json, or the files that its family has instead); add it"
        raise ModelError(msg, key=KEY)


def _is_regular(path: Path) -> bool:
    """Whether a path leads to a regular file; a link may be broken."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def check_weights(folder: Path) -> None:
    """Check the headers of the weights that mlx-vlm would read, and the index that leads to them.

    Raises:
        ModelError: A file is missing, not a safetensors file, incomplete, or outside of the folder.
    """
    for path in list_weights(folder):
        try:
            read_header(path)
        except (HeaderError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            msg = f"{path} cannot be read: {reason}; download or write it again"
            raise ModelError(msg, key=KEY) from None


def list_weights(folder: Path) -> list[Path]:
    """List the files of weights that mlx-vlm would read.

    Raises:
        ModelError: One that the index names is missing.
    """
    index = folder / INDEX_NAME
    lying = sorted(path for path in folder.glob("*.safetensors") if not path.name.endswith(APART))
    if not index.exists():
        return lying
    names = sorted(set(read_object(index, ModelError, KEY)["weight_map"].values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and len(missing) < len(names):
        msg = f"{index} names {missing[0]}, which is not there; download the model again"
        raise ModelError(msg, key=KEY)
    # An index of another layout of the same weights: like mlx-vlm, use the files that exist.
    return lying if missing else [folder / name for name in names]


@contextmanager
def blaming(what: str, folder: Path, remedy: str = "") -> Iterator[None]:
    """Convert any error of a model's or a processor's own code to an error about the folder.

    That code is of many libraries, each with its own errors.

    Args:
        what: What cannot be done, for the message.
        folder: The folder.
        remedy: What to do.

    Raises:
        ModelError: The code raised an error.
    """

    def name(error: Exception) -> ModelError:
        told = _find_broken(folder) or explain(error)
        # transformers' errors about keys of config.json name the key, but not the file.
        file = f"{folder / CONFIG_NAME}: " if type(error).__name__.startswith("StrictDataclass") else ""
        return ModelError(f"{what}: {file}{told}{remedy and f'; {remedy}'}", key=KEY)

    with foreign(name):
        yield


def explain(error: BaseException) -> str:
    """Describe another library's error in one line."""
    # The rest of mlx-vlm's message about missing weights is how to convert them.
    text = str(error).strip().partition("\n")[0] if isinstance(error, OSError) else str(error)
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__} {text}".strip()


def _find_broken(folder: Path) -> str | None:
    """Describe a JSON file that cannot be read or has the wrong type; None if there is none."""
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"{path.name} cannot be read ({explain(error)})"
        if not isinstance(found, dict if path.name in OBJECTS else (dict, list)):
            return f"{path.name} cannot be read (found {json.dumps(found)[:LONGEST]}, expected an object)"
    return None
