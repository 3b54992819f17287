"""Adapters written for a program: what it takes is written, what it does not is refused before anything is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ModelError
from ..models.load.adapter_files import ARGUMENT, read_adapter
from ..models.published.transformers_names import AUTO
from ..system.nouns import with_noun
from .destination import find_destination
from .gguf import gguf_usage, to_gguf
from .peft import PeftAdapter, to_peft, write_peft
from .saved import open_saved
from .vllm import is_named_as_published, to_vllm, vllm_usage

PROGRAMS = ("peft", "vllm", "gguf")


@attrs.frozen(kw_only=True)
class Exported:
    """A folder that was written.

    Attributes:
        folder: Where.
        program: Who reads it.
        base: What the folder names as its base.
        rank: The largest rank.
        n_layers: How many of the adapter's layers the folder has.
        n_whole: How many arrays were trained whole.
        notes: What the user should know.
        usage: How the folder is used, line by line.
    """

    folder: Path
    program: str
    base: str
    rank: int
    n_layers: int
    n_whole: int
    notes: tuple[str, ...]
    usage: tuple[str, ...]


def export(adapter: str, program: str, out: Path | None = None, base: str | None = None) -> Exported:
    """Write an adapter for a program.

    Args:
        adapter: Its file or a run's folder.
        program: Of `PROGRAMS`.
        out: The folder; named after the program, beside the adapter, if None.
        base: Another name of its base than the one that it records: the published model.

    Raises:
        VloraError: The adapter is damaged or of another model, the program has no form for it, or something is in the
            folder already.
    """
    if program not in PROGRAMS:
        msg = f"export: found {program!r}, expected one of {', '.join(PROGRAMS)}"
        raise ModelError(msg)
    folder = find_destination(out, read_adapter(adapter, ARGUMENT)[0].parent / program)
    saved = open_saved(adapter, base)
    as_published = program == "vllm" and is_named_as_published(saved.files.config)
    made = to_peft(saved, as_published=as_published)
    if program == "vllm":
        made = to_vllm(made, saved.files.config)
    elif program == "gguf":
        made = to_gguf(made, saved.files.config)
    write_peft(made, folder)
    return Exported(
        folder=folder,
        program=program,
        base=saved.base,
        rank=_largest(made.config),
        n_layers=made.n_layers,
        n_whole=len(saved.whole),
        notes=tuple(([] if saved.base_note is None else [saved.base_note]) + _notes(made, as_published=as_published)),
        usage=tuple(_usage(program, made, folder, saved.files.config)),
    )


def _largest(config: Mapping[str, Any]) -> int:
    return int(max([config["r"], *config["rank_pattern"].values()]))


def _notes(made: PeftAdapter, *, as_published: bool) -> list[str]:
    notes = []
    if made.unread:
        like = " and the like" if len(made.unread) > 1 else ""
        notes.append(
            f"{with_noun(len(made.unread), 'layer')} left out that nothing reads and transformers has not, which "
            f"changes no logit: {made.unread[0]}{like}"
        )
    if made.is_converted:
        base = made.config["base_model_name_or_path"]
        notes.append(
            f"{base} was converted for MLX, and the folder names it as its base, which other programs do not open; "
            "--base names the model that it was converted from"
        )
    if as_published:
        notes.append(
            "vLLM knows this architecture by published names, which the folder has; PEFT takes that of --to peft"
        )
    elif made.places.names is None:
        notes.append(
            "vlora does not know transformers' names of this architecture; the folder has those of the checkpoint, for "
            "models that the code of its repository opens"
        )
    elif made.places.names.like is not None:
        notes.append(
            "transformers opens this architecture only as a script of its own rewrites it, and the folder has the "
            f"names of that layout; give PEFT a base in it, as {made.places.names.like} is"
        )
    return notes


def _usage(program: str, made: PeftAdapter, folder: Path, config: Mapping[str, Any]) -> list[str]:
    if program == "vllm":
        return vllm_usage(made, folder, config)
    if program == "gguf":
        return gguf_usage(made, folder)
    opener = AUTO if made.places.names is None else made.places.names.opener
    return [f"PeftModel.from_pretrained({opener}.from_pretrained(base), {str(folder)!r})"]
