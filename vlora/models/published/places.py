"""Where transformers has what an adapter changes: for each parameter of the model, the parts of transformers' own."""

from collections.abc import Iterable, Mapping

import attrs
import mlx.core as mx
import mlx.nn as nn

from ..load.model_files import ModelFiles
from .links import Link, find_links
from .names import PublishedNames, find_published_names, read_published_names
from .tracing import Piece, trace
from .transformers_names import TransformersNames, find_transformers_names

Weights = Mapping[str, mx.array]


@attrs.frozen(eq=False, kw_only=True)
class Places:
    """Where transformers has parameters of a model.

    Attributes:
        links: The parts of transformers' parameters that each parameter is.
        shapes: The shapes of transformers' parameters.
        tied: transformers' parameters that are others: {"lm_head.weight": "model.embed_tokens.weight"}.
        names: How transformers renames published weights; None if the architecture is not one of its own, and the names
            are those of the checkpoint.
        is_converted: Whether mlx-vlm converted the folder, so that its names had to be searched for.
    """

    links: Mapping[str, tuple[Link, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    names: TransformersNames | None
    is_converted: bool


def find_places(
    files: ModelFiles, module: nn.Module, parameters: Iterable[str], *, as_published: bool = False
) -> Places:
    """Find where transformers has parameters of a model.

    Args:
        files: The model's folder; headers of its weights are read.
        module: The model without adapters.
        parameters: Names of those that are looked for. Those that are not found are left out.
        as_published: Whether to find them in the published checkpoint instead, whatever transformers makes of it.

    Raises:
        ModelError: The folder's weights are broken, or the family's code cannot read them.
    """
    names = find_transformers_names(files.config, files.model_type)
    published = read_published_names(files, module)
    pieces, shapes = published.pieces, published.shapes
    if published.is_converted:
        pieces, shapes = _search(files, module, parameters, published, names)
    wanted = {name: pieces[name] for name in parameters if name in pieces}
    names = None if as_published else names

    def convert(weights: Weights) -> dict[str, mx.array]:
        return dict(weights) if names is None else names.convert(weights)

    read = {piece.name for parts in wanted.values() for piece in parts}
    # Rules that join tensors have to see all of them, also those that this adapter leaves alone.
    made = {name: tuple(value.shape) for name, value in convert(_promise(shapes)).items()}
    other = {name: parts for name, parts in trace(convert, shapes).items() if any(part.name in read for part in parts)}
    links = find_links(wanted, other, made)
    if names is not None:
        links = {name: tuple(_turn_back(link, names) for link in parts) for name, parts in links.items()}
    return Places(
        links=links,
        shapes=made | {link.other: link.shape for parts in links.values() for link in parts},
        tied={} if names is None else names.tied,
        names=names,
        is_converted=published.is_converted,
    )


def _turn_back(link: Link, names: TransformersNames) -> Link:
    """Lay out a part of a stack that transformers turns as transformers has it: outputs before inputs.

    `TransformersNames.convert` leaves such stacks as they were published, since it does not know transformers' shapes.
    """
    if link.turn[-2:] != tuple(sorted(link.turn[-2:], reverse=True)) or not names.turns(link.other):
        return link
    experts, inputs, outputs = link.other_box
    n_experts, n_inputs, n_outputs = link.shape
    return attrs.evolve(
        link,
        other_box=(experts, outputs, inputs),
        turn=(*link.turn[:-2], link.turn[-1], link.turn[-2]),
        shape=(n_experts, n_outputs, n_inputs),
    )


def _promise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, mx.array]:
    return {name: mx.broadcast_to(mx.array(0.0), shape) for name, shape in shapes.items()}


def _search(
    files: ModelFiles,
    module: nn.Module,
    parameters: Iterable[str],
    published: PublishedNames,
    names: TransformersNames | None,
) -> tuple[dict[str, tuple[Piece, ...]], dict[str, tuple[int, ...]]]:
    """Find the published names of a converted folder's parameters: those of layers, and what lies beside them."""

    def is_known(name: str) -> bool:
        return names is not None and names.knows(names.rename(name))

    layers = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    modules = dict(module.named_modules())
    found = find_published_names(
        files, module, [name for name in layers if "weight" in modules.get(name, {})], is_known
    )
    pieces: dict[str, tuple[Piece, ...]] = {}
    for parameter in parameters:
        layer, _, part = parameter.rpartition(".")
        if part == "weight" and layer in found:
            pieces[parameter] = found[layer]
        elif layer in found and published.shapes.get(parameter):
            (own,) = published.pieces[parameter]
            pieces[parameter] = (attrs.evolve(own, name=f"{found[layer][0].name.removesuffix('weight')}{part}"),)
    shapes = {piece.name: _extent(piece) for parts in pieces.values() for piece in parts}
    return pieces, shapes


def _extent(piece: Piece) -> tuple[int, ...]:
    return tuple(part.stop for part in piece.source)
