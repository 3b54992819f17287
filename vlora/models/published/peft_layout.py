"""Factors of adapters in PEFT's layout: which module has which, in which order, joined or divided. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from ...errors import ModelError
from .links import Link

Array = np.ndarray[Any, np.dtype[Any]]

BEFORE = "base_model.model."
"""Begins the names of PEFT's arrays."""

TURNED = (2, 1)
"""The axes of outputs and inputs in a stack of experts whose matrices multiply from the right, as Llama 4's do."""

FUSE = "`python -m vlora fuse` writes a model that has it"


@attrs.frozen(eq=False, kw_only=True)
class Factors:
    """What an adapter has of one layer, as MLX lays it out.

    Attributes:
        a: f[inputs, R], or f[experts, R, inputs].
        b: f[R, outputs], or f[experts, outputs, R].
        m: DoRA's lengths, f[outputs]; None of another method.
    """

    a: Array
    b: Array
    m: Array | None = None

    @property
    def rank(self) -> int:
        """R."""
        return int(self.b.shape[-1] if self.b.ndim == 3 else self.b.shape[0])  # noqa: PLR2004 - experts

    def of_expert(self, expert: int | None) -> tuple[Array, Array]:
        """Give one expert's factors, or those of a plain layer, as PEFT has them: f[R, inputs], f[outputs, R]."""
        return (self.a.T, self.b.T) if expert is None else (self.a[expert], self.b[expert])


@attrs.frozen(eq=False, kw_only=True)
class PeftArrays:
    """An adapter's factors in PEFT's layout.

    Attributes:
        arrays: By the names that PEFT saves.
        modules: Linear layers to their ranks.
        parameters: Stacks of experts to the ranks of one expert.
    """

    arrays: Mapping[str, Array]
    modules: Mapping[str, int]
    parameters: Mapping[str, int]


def lay_out(links: Mapping[str, Sequence[Link]], factors: Mapping[str, Factors]) -> PeftArrays:
    """Write factors as PEFT has them.

    Args:
        links: Of each layer's weight, by the layer.
        factors: By layer.

    Raises:
        ModelError: PEFT has no form for a layer's part.
    """
    by_other: dict[str, list[tuple[str, Link]]] = {}
    for layer in factors:
        for link in links[layer]:
            by_other.setdefault(link.other, []).append((layer, link))
    arrays: dict[str, Array] = {}
    modules: dict[str, int] = {}
    stacks: dict[str, tuple[Array, Array]] = {}
    for other, found in by_other.items():
        # Joined in the order of transformers' own rows.
        parts = sorted(found, key=lambda part: [place.start for place in part[1].other_box[-2:]])
        shape = parts[0][1].shape
        if len(shape) == 3:  # noqa: PLR2004 - experts, outputs, inputs in some order
            stacks[other] = (_stack_matrix if is_matrix_of_experts(parts[0][1]) else _stack)(parts, factors)
        elif len(shape) == 2 and other.endswith(".weight"):  # noqa: PLR2004 - a matrix
            module = other.removesuffix(".weight")
            a, b, m = _join(parts, factors)
            modules[module] = a.shape[0]
            arrays[f"{BEFORE}{module}.lora_A.weight"], arrays[f"{BEFORE}{module}.lora_B.weight"] = a, b
            if m is not None:
                arrays[f"{BEFORE}{module}.lora_magnitude_vector"] = m
        else:
            raise _refusal(parts[0][0], f"is {other} in transformers, no linear layer")
    for module, names in _nest(stacks).items():
        arrays |= {
            f"{BEFORE}{module}.lora_A.weight": stacks[names][0],
            f"{BEFORE}{module}.lora_B.weight": stacks[names][1],
        }
    ranks = {name: a.shape[0] // parts_of(by_other[name]) for name, (a, _) in stacks.items()}
    return PeftArrays(arrays=arrays, modules=modules, parameters=ranks)


def parts_of(parts: Sequence[tuple[str, Link]]) -> int:
    """Count the experts of a stack."""
    return parts[0][1].shape[0]


def _nest(stacks: Iterable[str]) -> dict[str, str]:
    """Name the modules under which PEFT saves parameters of experts: of one layer the last adapted lies outermost."""
    by_module: dict[str, list[str]] = {}
    for name in stacks:
        by_module.setdefault(name.rpartition(".")[0], []).append(name)
    found = {}
    for module, names in by_module.items():
        for depth, name in enumerate(reversed(order_stacks(names))):
            found[module + ".base_layer" * depth] = name
    return found


def order_stacks(names: Iterable[str]) -> list[str]:
    """Order the stacks of one module as transformers defines them: what goes in before what comes out."""
    return sorted(names, key=lambda name: ("down" in name.rpartition(".")[2], name))


def is_matrix_of_experts(link: Link) -> bool:
    """Whether experts lie side by side in one of the model's matrices, and in a stack in transformers."""
    return (len(link.own_box), len(link.shape)) == (2, 3)


def _join(parts: Sequence[tuple[str, Link]], factors: Mapping[str, Factors]) -> tuple[Array, Array, Array | None]:
    """Make the factors of one linear layer of transformers from those of one layer or more."""
    sources: dict[tuple[str, int | None], int] = {}
    n_outputs, n_inputs = parts[0][1].shape
    rank = 0
    for layer, link in parts:
        if (key := (layer, _expert(link))) not in sources:
            sources[key], rank = rank, rank + factors[layer].rank
    dtype = factors[parts[0][0]].a.dtype
    a, b = np.zeros((rank, n_inputs), dtype), np.zeros((n_outputs, rank), dtype)
    m: Array | None = None if factors[parts[0][0]].m is None else np.full(n_outputs, np.nan, dtype)
    for layer, link in parts:
        own = _rows(layer, link, inputs=n_inputs)
        start = sources[layer, _expert(link)]
        span = slice(start, start + factors[layer].rank)
        a[span], own_b = factors[layer].of_expert(_expert(link))
        b[link.other_box[0], span] = own_b[own]
        own_m = factors[layer].m
        if m is not None and own_m is not None:
            m[link.other_box[0]] = own_m[own]
    if m is not None and np.isnan(m).any():
        name = parts[0][1].other
        raise _refusal(parts[0][0], f"is a part of transformers' {name} of which other parts have no adapter of DoRA")
    return a, b, m


def _stack(parts: Sequence[tuple[str, Link]], factors: Mapping[str, Factors]) -> tuple[Array, Array]:
    """Make the factors of a stack of experts: f[experts R, inputs], f[outputs, R experts], R of one expert.

    PEFT takes the second axis of each stack for the outputs (peft/tuners/lora/layer.py, `ParamWrapper`). Where it is
    the inputs, the two factors change places.
    """
    starts: dict[str, int] = {}
    rank = 0
    for layer, _ in parts:
        if layer not in starts:
            starts[layer], rank = rank, rank + factors[layer].rank
    first = parts[0][1]
    n_experts = first.shape[0]
    out, inner = _axes(first, parts[0][0])
    n_outputs, n_inputs = first.shape[out], first.shape[inner]
    dtype = factors[parts[0][0]].a.dtype
    a, b = np.zeros((n_experts, rank, n_inputs), dtype), np.zeros((n_outputs, rank, n_experts), dtype)
    for layer, link in parts:
        found = factors[layer]
        span = slice(starts[layer], starts[layer] + found.rank)
        own_rows, rows = link.own_box[1], link.other_box[out]
        for own, other in zip(_numbers(link.own_box[0]), _numbers(link.other_box[0]), strict=True):
            a[other, span] = found.a[own]
            b[rows, span, other] = found.b[own][own_rows]
    if (out, inner) == TURNED:
        a, b, n_outputs, n_inputs = b.transpose(2, 1, 0), a.transpose(2, 1, 0), n_inputs, n_outputs
    return a.reshape(n_experts * rank, n_inputs), b.reshape(n_outputs, rank * n_experts)


def _stack_matrix(parts: Sequence[tuple[str, Link]], factors: Mapping[str, Factors]) -> tuple[Array, Array]:
    """Make the factors of a stack of experts that lie side by side in one matrix, as Inkling's shared ones do.

    Experts side by side in the outputs share the factor A, and those in the inputs the factor B.
    """
    n_experts, n_outputs, n_inputs = parts[0][1].shape
    found = factors[parts[0][0]]
    if found.m is not None:
        raise _refusal(parts[0][0], f"is experts of transformers' {parts[0][1].other}, of which PEFT takes no DoRA")
    a = np.zeros((n_experts, found.rank, n_inputs), found.a.dtype)
    b = np.zeros((n_outputs, found.rank, n_experts), found.b.dtype)
    for _, link in parts:
        rows, columns = link.own_box
        expert = link.other_box[0].start
        a[expert], b[..., expert] = found.a.T[:, columns], found.b.T[rows]
    return a.reshape(n_experts * found.rank, n_inputs), b.reshape(n_outputs, found.rank * n_experts)


def _axes(link: Link, layer: str) -> tuple[int, int]:
    """Say which axis of transformers' stack has the outputs, and which the inputs."""
    lengths = [len(_numbers(part)) for part in link.own_box]
    # Axes of length 1 say nothing of their place.
    long = [axis for axis, length in enumerate(lengths) if length > 1]
    order = [long[axis] for axis in link.turn]
    turned = 1 in order and 2 in order and order.index(2) < order.index(1)  # noqa: PLR2004 - outputs, inputs
    out, inner = (2, 1) if turned else (1, 2)
    if lengths[2] != link.shape[inner]:
        raise _refusal(layer, f"is only some of the inputs of transformers' {link.other}")
    return out, inner


def _expert(link: Link) -> int | None:
    """Give the expert whose matrix a part is; None where the layer is no stack."""
    return link.own_box[0].start if len(link.own_box) == 3 else None  # noqa: PLR2004 - experts, outputs, inputs


def _rows(layer: str, link: Link, *, inputs: int) -> slice:
    """Say which outputs of a layer a part is; it has to have all inputs, in transformers too."""
    *_, rows, columns = link.own_box
    is_whole = len(_numbers(columns)) == inputs == len(_numbers(link.other_box[1]))
    if not is_whole or list(link.turn) != sorted(link.turn):
        raise _refusal(layer, f"is no rows of transformers' {link.other}")
    return rows


def _numbers(part: slice) -> range:
    return range(part.start, part.stop, part.step or 1)


def _refusal(layer: str, what: str) -> ModelError:
    return ModelError(f"{layer} {what}, and PEFT has no form for its adapter; {FUSE}")
