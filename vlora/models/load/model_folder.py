"""A model's folder, looked at before anything is made of it: what describes the model, and its weights' headers."""

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
"""What describes a model and its processor on the hub: all that mlx-vlm downloads, but for the weights."""

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
APART = "consolidated.safetensors"
"""The same weights once more, in another layout, beside the shards."""

VOCABULARY = re.compile(r"tokeni[sz]er|vocab|merges|spiece|sentencepiece|tekken|\.bpe|\.tiktoken|\.model$")
"""What names of files have that tokenizers are in."""

LONGEST = 300
"""Characters of another library's error that are repeated."""

WHERE = "model.path"

OBJECTS = ("added_tokens.json", "special_tokens_map.json", "tokenizer.json", "vocab.json")
"""Files of a tokenizer that are objects. Others may be lists."""


def check_folder(folder: Path) -> None:
    """Check the files that say what a model and its processor are.

    Raises:
        ModelError: One of them is none, or says what cannot be.
    """
    for path in sorted(folder.iterdir()):
        is_named = any(fnmatch.fnmatch(path.name, pattern) for pattern in DESCRIBING)
        if path.name in SCHEMAS and path.name != INDEX_NAME:
            read_object(path, ModelError, WHERE)
        elif is_named and not path.is_dir() and not _is_regular(path):
            # A pipe would be waited for.
            msg = f"{WHERE}: {path} is no regular file; give a folder with the files of one model"
            raise ModelError(msg)


def check_tokenizer(folder: Path) -> None:
    """Check that there is a vocabulary: transformers makes a tokenizer without one, whose rows have no tokens.

    Raises:
        ModelError: There is none.
    """
    names = {path.name for path in folder.iterdir()} - {"tokenizer_config.json"}
    if not any(VOCABULARY.search(name) for name in names):
        msg = f"{WHERE}: {folder} has no tokenizer (tokenizer.json, or the files that its family has instead); add it"
        raise ModelError(msg)


def _is_regular(path: Path) -> bool:
    """Whether a path leads to a file with an end; a link may lead nowhere."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def check_weights(folder: Path) -> None:
    """Check the headers of the weights that mlx-vlm would read, and the index that leads to them.

    Raises:
        ModelError: A file is missing, no safetensors, not whole, or outside of the folder.
    """
    for path in list_weights(folder):
        try:
            read_header(path)
        except (HeaderError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            msg = f"{WHERE}: {path} cannot be read: {reason}; download or write it again"
            raise ModelError(msg) from None


def list_weights(folder: Path) -> list[Path]:
    """List the files of weights that mlx-vlm would read.

    Raises:
        ModelError: One that the index names is missing.
    """
    index = folder / INDEX_NAME
    lying = sorted(path for path in folder.glob("*.safetensors") if not path.name.endswith(APART))
    if not index.exists():
        return lying
    names = sorted(set(read_object(index, ModelError, WHERE)["weight_map"].values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and len(missing) < len(names):
        msg = f"{WHERE}: {index} names {missing[0]}, which is not there; download the model again"
        raise ModelError(msg)
    # The index of another layout of the same weights: mlx-vlm goes by what lies there, too.
    return lying if missing else [folder / name for name in names]


@contextmanager
def blaming(what: str, folder: Path, remedy: str = "") -> Iterator[None]:
    """Let whatever a model's or a processor's own code raises be the folder's fault.

    That code is many libraries', each with its own way to say what it cannot read.

    Args:
        what: What cannot be done, for the error.
        folder: What it is done with.
        remedy: What to do.

    Raises:
        ModelError: It could not be done.
    """

    def name(error: Exception) -> ModelError:
        told = _find_broken(folder) or explain(error)
        # What transformers raises of a key of config.json: it names the key, and not the file.
        file = f"{folder / CONFIG_NAME}: " if type(error).__name__.startswith("StrictDataclass") else ""
        return ModelError(f"{WHERE}: {what}: {file}{told}{remedy and f'; {remedy}'}")

    with foreign(name):
        yield


def explain(error: BaseException) -> str:
    """Say on one line what another library has raised."""
    # The rest of what mlx-vlm says where there are no weights is how to convert them.
    text = str(error).strip().partition("\n")[0] if isinstance(error, OSError) else str(error)
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__} {text}".strip()


def _find_broken(folder: Path) -> str | None:
    """Name a file that is no JSON though it is called so, or holds what it cannot; None if there is none."""
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"{path.name} cannot be read ({explain(error)})"
        if not isinstance(found, dict if path.name in OBJECTS else (dict, list)):
            return f"{path.name} cannot be read (found {json.dumps(found)[:LONGEST]}, expected an object)"
    return None
