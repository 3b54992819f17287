"""Loads, freezes, quantizes and checks models, and switches them between training and generation."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_vlm import utils as mlx_vlm_utils

from ...compilation.known_kernels import keep
from ...errors import ModelError
from ...recipe.schema import ModelSection
from ..backbone.backbone import MlxVlmBackbone
from ..backbone.fused import find_fused_modules
from ..backbone.head import is_packed_head, pack_head, unpack_head
from ..backbone.outcomes import Outcomes, open_outcomes
from ..backbone.parts import find_layout
from ..families.family import Family
from .base import describe_base
from .model_files import ModelFiles
from .model_folder import blaming, check_weights
from .quantize import quantize_language
from .rope_scaling import find_scaling, scale_rotations
from .weights import build_module, load_translated

BELONGING = "config.json and the weights have to be of one model"


def abstract_backbone(files: ModelFiles, section: ModelSection) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Make a model of the right shapes and types without reading its weights; every number is 0 and takes no memory.

    Returns:
        As `load_backbone`.

    Raises:
        ModelError: Existing weights do not fit the configuration.
    """
    # What follows computes: MLX's own folder for kernels is the first user's of the machine.
    keep()
    with blaming(f"cannot build the model of {section.path!r}", files.path):
        if any(files.path.glob("*.safetensors")):
            # The headers say how each layer is stored; arrays are loaded lazily.
            check_weights(files.path)
            module = _load_module(files, is_lazy=True)
        else:
            module = build_module(files.path, files.config)
    restore(module, files.family, files.config)
    backbone, quantized = prepare(module, files.family, section, is_abstract=True)
    backbone.base = describe_base(backbone.module, files, section.path)
    return backbone, quantized


def load_backbone(
    files: ModelFiles, section: ModelSection, *, is_lazy: bool = False
) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Load a model's weights, frozen, and quantize them if the recipe says so; those of a hub id are downloaded first.

    Args:
        files: The model.
        section: The recipe's section.
        is_lazy: Leave weights to be read, and quantized, when they are first used. Of its parts only one of each kind
            is tried then, and its head is what shapes say.

    Returns:
        The backbone, and how the base was quantized here (empty if it was not), as an adapter records it.

    Raises:
        ModelError: There are no weights, or they do not fit the configuration.
    """
    # What follows computes: MLX's own folder for kernels is the first user's of the machine.
    keep()
    fetch_weights(files)
    with blaming(f"cannot load the weights of {section.path!r}", files.path, BELONGING):
        module = _load_module(files, is_lazy=is_lazy)
    if scaling := find_scaling(files.config):
        parts = dict(module.named_modules())
        scale_rotations(parts[find_prefix(module, files.family)], scaling, section.path)
    restore(module, files.family, files.config)
    backbone, quantized = prepare(module, files.family, section, config=files.config, is_lazy=is_lazy)
    backbone.base = describe_base(backbone.module, files, section.path)
    return backbone, quantized


def unread_weights(files: ModelFiles, section: ModelSection) -> Callable[[str, nn.Module], None]:
    """Make what gives a layer of a lazy model its weights as they were before they were read.

    The starts of DoRA and PiSSA read the weights of every layer, all of which would be held.
    """

    @functools.cache
    def unread() -> dict[str, nn.Module]:
        backbone, _ = load_backbone(files, section, is_lazy=True)
        return dict(backbone.module.named_modules())

    def put_back(name: str, layer: nn.Module) -> None:
        layer.update(unread()[name].parameters())

    return put_back


def fetch_weights(files: ModelFiles) -> None:
    """Download a hub id's weights, and check the headers of all files of weights.

    Raises:
        ModelError: One cannot be downloaded or read.
    """
    with blaming(f"cannot load the weights of {files.hub_id or str(files.path)!r}", files.path, BELONGING):
        if files.hub_id is not None:
            # A snapshot's folder has the name of its commit, so that weights and configuration are of one version.
            mlx_vlm_utils.get_model_path(files.hub_id, revision=files.path.name)
        check_weights(files.path)


def open_lazily(files: ModelFiles) -> nn.Module:
    """Make a model as mlx-vlm reads it, with lazy weights: each is read when it is first used.

    Raises:
        ModelError: There are no weights, or they do not fit the configuration.
    """
    with blaming(f"cannot load the weights of {files.hub_id or str(files.path)!r}", files.path, BELONGING):
        return _load_module(files, is_lazy=True)


def _load_module(files: ModelFiles, *, is_lazy: bool = False) -> nn.Module:
    """Load a model's weights, lazily or at once; see `load_translated`."""
    if files.is_translated:
        return load_translated(files.path, files.config, files.model_type, is_lazy=is_lazy)
    return mlx_vlm_utils.load_model(files.path, lazy=is_lazy)


def restore(module: nn.Module, family: Family, config: Mapping[str, Any]) -> None:
    """Restore keys of config.json that mlx-vlm's configuration drops and the family needs."""
    for key in family.forward.config_keys:
        if key in config:
            setattr(module.config, key, config[key])


def prepare(
    module: nn.Module,
    family: Family,
    section: ModelSection,
    *,
    is_abstract: bool = False,
    is_lazy: bool = False,
    config: Mapping[str, Any] | None = None,
) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Freeze a model, quantize it if the recipe says so, and set each part's training mode.

    Args:
        module: The model.
        family: Its description.
        section: The recipe's section.
        is_abstract: Whether the model has shapes only: nothing is computed, and its head is not verified.
        is_lazy: As for `load_backbone`.
        config: Its config.json, the key of the cached check results; None to cache nothing.

    Returns:
        As `load_backbone`.
    """
    complete_modules(module)
    if is_abstract:
        blank(module)
    family.forward.fix_weights(module)
    module.freeze()
    prefix = find_prefix(module, family)
    quantized: dict[str, Any] = {}
    if section.quantize_bits is not None:
        quantized = _quantize(module, family, prefix, section, is_abstract=is_abstract, is_lazy=is_lazy)
    backbone = MlxVlmBackbone(module, family, prefix)
    _set_modes(backbone)
    if is_abstract:
        backbone.detect_head(is_verified=False)
        backbone.fused_modules = find_fused_modules(backbone.language_model, is_verified=False)
    else:
        _check(backbone, Outcomes() if config is None else open_outcomes(config, module), is_lazy=is_lazy)
    return backbone, quantized


def quantize_loaded(backbone: MlxVlmBackbone, section: ModelSection) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Quantize a model that is loaded and has no adapter, in place, as `prepare` quantizes it.

    Args:
        backbone: The model; it must not be used afterwards.
        section: Says how many bits, and how many weights share a scale.

    Returns:
        As `load_backbone`.

    Raises:
        ModelError: It is quantized already, or no layer can be.
    """
    module = backbone.module
    quantized = _quantize(module, backbone.family, backbone.language_prefix, section, is_abstract=False)
    again = MlxVlmBackbone(module, backbone.family, backbone.language_prefix)
    again.base = backbone.base
    _set_modes(again)
    _check(again, Outcomes())
    return again, quantized


def _quantize(
    module: nn.Module,
    family: Family,
    prefix: str,
    section: ModelSection,
    *,
    is_abstract: bool,
    is_lazy: bool = False,
) -> dict[str, Any]:
    _refuse_quantizing_again(module, prefix, section.path)
    bits = cast("int", section.quantize_bits)
    quantized = quantize_language(module, find_layout(family, prefix), bits, section.quantize_group_size)
    if is_abstract:
        blank(module)
    elif not is_lazy:
        mx.eval(module.parameters())
    module.freeze()
    return quantized


def _set_modes(backbone: MlxVlmBackbone) -> None:
    """Put the language model into training mode; batch norms and dropped layers of the tower need evaluation mode."""
    for name, child in backbone.module.named_modules():
        trains = backbone.is_language(name) and not isinstance(child, nn.Dropout)
        child._training = trains  # noqa: SLF001 - `train()` would change its children too


def _check(backbone: MlxVlmBackbone, outcomes: Outcomes, *, is_lazy: bool = False) -> None:
    """Find the head of a model and its fused parts, by computing or from cached results.

    Of a lazy model as little as can be is computed: the head's shapes alone, and one of the parts that are alike.
    """
    if is_lazy:
        if is_packed_head(outcomes.found.get("head", False), backbone.module):
            backbone.head = unpack_head(outcomes.found["head"])
        else:
            backbone.detect_head(is_verified=False)
        # Not saved: the next run may try each.
        known = Outcomes(found=dict(outcomes.found))
        backbone.fused_modules = find_fused_modules(backbone.language_model, outcomes=known, is_each_tried=False)
        return

    def find() -> dict[str, Any] | None:
        backbone.detect_head()
        return pack_head(backbone.head)

    found = outcomes.settle("head", find, is_valid=lambda packed: is_packed_head(packed, backbone.module))
    backbone.head = unpack_head(found)
    backbone.fused_modules = find_fused_modules(backbone.language_model, outcomes=outcomes)
    outcomes.save()


def blank(module: nn.Module) -> None:
    """Replace every weight by a broadcast 0, which takes no memory."""
    module.update(tree_map(lambda value: mx.broadcast_to(mx.zeros((), value.dtype), value.shape), module.parameters()))


def _refuse_quantizing_again(module: nn.Module, prefix: str, path: str) -> None:
    for name, layer in module.named_modules():
        if name.startswith(prefix) and isinstance(layer, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            msg = f"model.quantize_bits: {path!r} is quantized already ({layer.bits} bits, {layer.mode}); leave it out"
            raise ModelError(msg)


def complete_modules(module: nn.Module) -> None:
    """Initialize modules whose constructors do not call `nn.Module.__init__`; they could not be frozen or trained.

    The call is missing in MiMo-V2's audio tower (mimo_v2/audio.py:10, :40, :54).
    """
    for child in module.modules():
        if not hasattr(child, "_no_grad"):
            nn.Module.__init__(child)


def find_prefix(module: nn.Module, family: Family) -> str:
    """Return the name of the language model within a model; empty if it is the model itself."""
    if family.parts.language_model is not None:
        return family.parts.language_model
    language_model = module.language_model
    return str(next(name for name, child in module.named_modules() if child is language_model))


@contextlib.contextmanager
def generating(backbone: MlxVlmBackbone) -> Iterator[nn.Module]:
    """Put the model into evaluation mode while the `with` lasts, and restore the training mode."""
    modes = [(child, child.training) for _, child in backbone.module.named_modules()]
    backbone.module.eval()
    try:
        yield backbone.module
    finally:
        for child, training in modes:
            child._training = training  # noqa: SLF001 - `train()` would change its children too
