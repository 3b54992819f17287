"""An adapter and its base made one model, in a folder that other programs open."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import mlx.nn as nn

from .. import models
from ..adapters.merge import Rounding
from ..models.published.loaded import trace_loading
from ..models.published.names import is_converted
from ..output.atomic import write_whole_folder
from ..run.origin import find_adapter_recipe
from ..run.save import NOT_A_MODELS
from ..system.files import expand
from ..system.safetensors_header import name_arrays, read_metadata
from .convert import convert
from .destination import find_destination
from .rewrite import Rewriter, packed_layers, rewrite
from .shards import LARGEST, ShardWriter
from .trained import Trained, open_trained

Quantize = Literal["keep", "none", "4", "8"]
CHOICES: tuple[Quantize, ...] = ("keep", "none", "4", "8")
FOLDER = "fused"
"""Beside an adapter, where no other folder is named."""


@attrs.frozen(kw_only=True)
class Fused:
    """A model that was written.

    Attributes:
        folder: Where.
        base: The base, by its hub id or folder.
        n_layers: Layers that had adapters.
        n_whole: Parameters that were trained whole.
        n_quantized: Quantized layers that the folder has.
        rounding: What quantizing has changed of what was trained.
        layout: "published" for the base's own names, "mlx" for those of mlx-vlm's conversion.
        why_mlx: Why it is not the base's own layout; None where it is.
        is_converted: Whether the base's own layout is that of mlx-vlm's conversion, too.
        n_bytes: Size of the weights.
        note: That the adapter was trained on another base; None if it was not.
    """

    folder: Path
    base: str
    n_layers: int
    n_whole: int
    n_quantized: int
    rounding: Rounding
    layout: Literal["published", "mlx"]
    why_mlx: str | None
    is_converted: bool
    n_bytes: int
    note: str | None


def fuse(
    adapter: str,
    out: Path | None = None,
    *,
    quantize: Quantize = "keep",
    base: str | None = None,
    largest: int = LARGEST,
) -> Fused:
    """Write the model that an adapter has made of its base.

    Args:
        adapter: The adapter's file or folder.
        out: The folder that is written; "fused" beside the adapter without one.
        quantize: "keep" leaves layers as the adapter was trained on them: packed ones are unpacked, added to in float32
            and packed again as they were. "none" packs none, "4" and "8" those that mlx-vlm's conversion packs.
        base: Another folder or hub id than that of the adapter's base.
        largest: Bytes of a file of weights.

    Raises:
        VloraError: The adapter or its base cannot be read, they do not fit, or there is a folder already.
    """
    recipe = find_adapter_recipe(adapter, base)
    folder = find_destination(out, expand(str(recipe.model.adapter_path)).parent / FOLDER)
    # Nothing is trained: where the run would write does not matter.
    recipe = attrs.evolve(recipe, output=attrs.evolve(recipe.output, path=str(folder.with_name(f"{folder.name}-run"))))
    trained = open_trained(recipe)
    work = _Work(trained, quantize, largest)
    write_whole_folder(folder, work.write)
    return Fused(
        folder=folder,
        base=recipe.model.path,
        n_layers=len(trained.layers),
        n_whole=len(trained.whole),
        n_quantized=len(work.schemes),
        rounding=work.rounding,
        layout="published" if work.why_mlx is None else "mlx",
        why_mlx=work.why_mlx,
        is_converted=work.is_converted,
        n_bytes=work.n_bytes,
        note=trained.backbone.base_note,
    )


@attrs.define(eq=False)
class _Work:
    """One folder to be written."""

    trained: Trained
    quantize: Quantize
    largest: int
    schemes: Mapping[str, models.Scheme] = attrs.field(factory=dict, init=False)
    rounding: Rounding = attrs.field(factory=Rounding, init=False)
    why_mlx: str | None = attrs.field(default=None, init=False)
    is_converted: bool = attrs.field(default=False, init=False)
    n_bytes: int = attrs.field(default=0, init=False)

    def write(self, folder: Path) -> None:
        """Write weights, configuration, processor and tokenizer."""
        module = models.open_lazily(self.trained.files)
        self.is_converted = is_converted(models.list_weights(self.trained.files.path), module)
        own = dict(packed_layers(module))
        self.schemes, self.why_mlx = self._choose(module, own)
        rewriter = None if self.why_mlx else self._make_rewriter(module, own)
        if rewriter is not None and (name := rewriter.unwritable()) is not None:
            self.why_mlx, rewriter = f"the base's files do not have {name} by itself", None
        config = self._copy_companions(folder)
        if rewriter is not None:
            writer = ShardWriter(folder, self._form(), self.largest)
            if self.trained.files.config_differs_upstream:
                _write_config(folder, both_words(_read_config(folder), config))
            rewrite(rewriter, models.list_weights(self.trained.files.path), writer)
            self.rounding = rewriter.rounding
        else:
            writer = ShardWriter(folder, "mlx", self.largest)
            self.rounding = convert(self.trained, module, self.schemes, writer)
            _write_config(folder, models.quantized_config(config, self.schemes))
        writer.close()
        self.n_bytes = writer.total

    def _choose(
        self, module: nn.Module, own: Mapping[str, models.Scheme]
    ) -> tuple[Mapping[str, models.Scheme], str | None]:
        """Say which layers are quantized, and why the base's own layout cannot have them; None if it can."""
        on_loading, tied = self.trained.on_loading, models.tied_heads(self.trained.backbone.module)
        if self.quantize == "none":
            return {}, "the base's own files are quantized" if own else None
        if self.quantize == "keep":
            # A table that got rows for tokens was unpacked for it.
            tables = {name.rpartition(".")[0] for name in self.trained.whole}
            schemes = {name: scheme for name, scheme in {**own, **on_loading}.items() if name not in tables}
            why = "its layers are quantized as they were for training" if on_loading else None
        else:
            schemes = models.choose_schemes(module, int(self.quantize))
            why = f"its layers are quantized to {self.quantize} bits"
        copies = {head: schemes[table] for head, table in tied.items() if table in schemes}
        return {name: scheme for name, scheme in schemes.items() if name not in tied} | copies, why

    def _make_rewriter(self, module: nn.Module, own: Mapping[str, models.Scheme]) -> Rewriter:
        paths = models.list_weights(self.trained.files.path)
        places = {name: path for path in paths for name in name_arrays(path)}
        return Rewriter(
            trained=self.trained, schemes=own, pieces=trace_loading(self.trained.files, module), places=places
        )

    def _form(self) -> str:
        """Say what the metadata of the base's files calls their format."""
        for path in models.list_weights(self.trained.files.path):
            form = read_metadata(path).get("format")
            if form:
                return str(form)
        return "pt"

    def _copy_companions(self, folder: Path) -> Mapping[str, Any]:
        """Copy what describes the base and its processor, with the tokens that it got; give its configuration."""
        trained = self.trained
        for file in models.companions(trained.files, NOT_A_MODELS):
            shutil.copy(file, folder / file.name)
        config: Mapping[str, Any] = trained.files.config
        if trained.files.added:
            config = models.grow_config(config, trained.backbone, trained.files.path)
            models.write_tokenizer(models.load_tokenizer(trained.files), trained.files.added, folder)
            _write_config(folder, config)
        return config


def both_words(published: Mapping[str, Any], translated: Mapping[str, Any]) -> dict[str, Any]:
    """Join a configuration as it was published with the same in mlx-vlm's words, which hold where both say something.

    Each library reads its own words and leaves the others alone.
    """
    joined = dict(published)
    for key, value in translated.items():
        if key == "generation_config":
            # Of another file.
            continue
        own = joined.get(key)
        joined[key] = both_words(own, value) if isinstance(own, dict) and isinstance(value, Mapping) else value
    return joined


def _read_config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
