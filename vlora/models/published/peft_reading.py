"""PEFT's arrays and configuration become an adapter of the model: every array is used, or named in an error. Pure."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import CheckpointError
from .links import Link
from .peft_joining import Layer, join_layers
from .peft_layout import TURNED, is_matrix_of_experts, order_stacks
from .peft_settings import LAYER_END, check_settings, find_missing
from .places import Places

Array = np.ndarray[Any, np.dtype[Any]]

BEFORE = re.compile(r"^(base_model\.)?model\.(?=.)")
"""What PEFT puts before the names of the model that it wraps."""

FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<part>A|B)(\.default)?\.weight$")
LENGTHS = re.compile(r"^(?P<module>.+)\.lora_magnitude_vector(\.default)?(\.weight)?$")
WHOLE = re.compile(r"^(?P<module>.+?)(\.modules_to_save(\.default)?)?\.(?P<part>weight|bias)$")


def from_peft(
    arrays: Mapping[str, Array],
    config: Mapping[str, Any],
    places: Places,
    where: str,
    unread: Collection[str] = (),
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Bring an adapter of PEFT into the model's own layout.

    Args:
        arrays: By PEFT's names.
        config: Its adapter_config.json.
        places: Where transformers has all parameters of the model that may be adapted or trained whole.
        where: Its file, for errors.
        unread: The model's parameters that nothing reads, and that transformers has not.

    Returns:
        Arrays by the model's names, and the configuration that `save_adapter` takes.

    Raises:
        CheckpointError: It is no LoRA, has a setting that is not read, or an array that fits nowhere.
    """
    check_settings(config, where)
    reading = _Reading(config, places, where, unread)
    for name, value in arrays.items():
        reading.add(name, value)
    return reading.finish()


class _Reading:
    """Collects arrays by transformers' parameters, then writes the model's."""

    def __init__(self, config: Mapping[str, Any], places: Places, where: str, unread: Collection[str]) -> None:
        self._config, self._places, self._where, self._unread = config, places, where, unread
        self._links: dict[str, list[Link]] = {}
        for links in places.links.values():
            for link in links:
                self._links.setdefault(link.other, []).append(link)
        self._parts: dict[str, dict[str, Array]] = {}
        self._wholes: dict[str, Array] = {}
        self._said: dict[str, str] = {}

    def add(self, name: str, value: Array) -> None:
        """Take an array."""
        bare = BEFORE.sub("", name, count=1) if name.startswith("base_model.") else name
        if found := FACTOR.match(bare):
            self._put(self._parameter(found["module"], name), found["part"], name, value)
        elif found := LENGTHS.match(bare):
            self._put(self._parameter(found["module"], name), "m", name, value)
        elif (found := WHOLE.match(bare)) and (found["part"] == "weight"):
            parameter = self._parameter(found["module"], name, is_whole=True)
            if parameter in self._wholes and not np.array_equal(self._wholes[parameter], value):
                msg = f"{self._where}: {name} differs from {self._said[parameter]}, which the model has in one table"
                raise CheckpointError(msg)
            self._wholes[parameter] = value
            self._said[parameter] = name
        else:
            msg = f"{self._where}: has {name}, which is no part of a LoRA on layers; merge it with PEFT instead"
            raise CheckpointError(msg)

    def _put(self, parameter: str, part: str, name: str, value: Array) -> None:
        if part in self._parts.setdefault(parameter, {}):
            msg = f"{self._where}: has {name} twice, under two spellings"
            raise CheckpointError(msg)
        self._parts[parameter][part] = value
        self._said[parameter] = name

    def _parameter(self, module: str, name: str, *, is_whole: bool = False) -> str:
        """Find which of transformers' parameters a module's array is of; of a tied one, which it is tied to."""
        names = self._places.names
        spellings = [f"{module}.weight"]
        if names is not None:
            # Saved by an older transformers, whose modules were called as the published weights are.
            spellings += [names.rename(f"{module}.weight"), names.rename(f"model.{module}.weight")]
        for spelling in () if is_whole else spellings:
            if (stack := self._stack(spelling.removesuffix(".weight"))) is not None:
                return stack
        if is_whole:
            spellings += [self._places.tied.get(spelling, "") for spelling in spellings]
        found = next((spelling for spelling in spellings if spelling in self._links), None)
        if found is None:
            msg = f"{self._where}: has {name}, for which the model has no layer; was it trained on another model?"
            raise CheckpointError(msg)
        return found

    def _stack(self, module: str) -> str | None:
        """Name the stack of experts that a wrapper of PEFT adapts; None if the module is a layer."""
        targets = tuple(self._config.get("target_parameters") or ())
        bare = module
        while bare.endswith(".base_layer"):
            bare = bare.removesuffix(".base_layer")
        depth = (len(module) - len(bare)) // len(".base_layer")
        stacks = [
            name
            for name in self._links
            if name.rpartition(".")[0] == bare and any(name == one or name.endswith(f".{one}") for one in targets)
        ]
        ordered = order_stacks(stacks)
        return ordered[::-1][depth] if depth < len(ordered) else None

    def finish(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Write the model's arrays and its configuration."""
        if self._parts and (lacking := self._lacking()) is not None:
            msg = (
                f"{self._where}: its configuration names {lacking}, of which it has no array; it was not written whole"
            )
            raise CheckpointError(msg)
        own: dict[str, list[tuple[Link, Layer]]] = {}
        for parameter, parts in self._parts.items():
            for link, part in self._divide(parameter, self._layer(parameter, parts)):
                own.setdefault(link.own.removesuffix(".weight"), []).append((link, part))
        counts = {name: len(self._places.links[f"{name}.weight"]) for name in own}
        joined = {name: join_layers(name, parts, counts[name], self._where) for name, parts in own.items()}
        if not joined:
            msg = f"{self._where}: has no layer's LoRA; expected lora_A and lora_B of one at least"
            raise CheckpointError(msg)
        rank = max(layer.a.shape[-2] for layer in joined.values())
        scale = Counter(layer.scale for layer in joined.values()).most_common(1)[0][0]
        arrays: dict[str, Array] = {}
        for name, layer in joined.items():
            arrays |= {f"{name}.{part}": value for part, value in _own_arrays(layer, rank, scale).items()}
        tables = self._tables()
        is_dora = any(layer.m is not None for layer in joined.values())
        config: dict[str, Any] = {
            "fine_tune_type": "dora" if is_dora else "lora",
            "num_layers": -1,
            "lora_parameters": {"rank": rank, "scale": scale, "dropout": float(self._config.get("lora_dropout") or 0)},
        }
        has_experts = any(layer.a.ndim == 3 for layer in joined.values())  # noqa: PLR2004 - stacks
        if has_experts:
            config["adapted_layers"] = list(joined)
        else:
            config["lora_parameters"]["keys"] = list(joined)
        if tables:
            config["trained_tables"] = sorted(name.removesuffix(".weight") for name in tables)
        return arrays | tables, config

    def _lacking(self) -> str | None:
        """Name a layer or a table that the configuration has and the file has not; None if there is none."""
        read = {name for name, links in self._links.items() if not {link.own for link in links} <= set(self._unread)}
        known = {name: name for name in read} | dict(self._places.tied)
        return find_missing(self._config, known, self._parts, self._wholes)

    def _layer(self, parameter: str, parts: Mapping[str, Array]) -> Layer:
        said, shape = self._said[parameter], self._links[parameter][0].shape
        if "A" not in parts or "B" not in parts:
            msg = f"{self._where}: has {said} without its other factor; it was not written whole"
            raise CheckpointError(msg)
        if bool(self._config.get("use_dora")) != ("m" in parts):
            msg = f"{self._where}: use_dora is {bool(self._config.get('use_dora'))}, and {said} says otherwise"
            raise CheckpointError(msg)
        a, b = parts["A"], parts["B"]
        rank = self._setting("rank_pattern", parameter, int(self._config["r"]))
        alpha = self._setting("alpha_pattern", parameter, float(self._config["lora_alpha"]))
        n_experts = shape[0] if len(shape) == 3 else 1  # noqa: PLR2004 - a stack
        outputs, inputs = self._sizes(parameter)
        if a.shape != (rank * n_experts, inputs) or b.shape != (outputs, rank * n_experts):
            msg = (
                f"{self._where}: {said} has the factors {a.shape} and {b.shape}, expected {(rank * n_experts, inputs)} "
                f"and {(outputs, rank * n_experts)}; was it trained on another model or rank?"
            )
            raise CheckpointError(msg)
        if len(shape) == 3:  # noqa: PLR2004 - a stack
            a, b = a.reshape(n_experts, rank, inputs), b.reshape(outputs, rank, n_experts).transpose(2, 0, 1)
            if axes_of(self._links[parameter][0]) == TURNED:
                a, b = b.swapaxes(1, 2), a.swapaxes(1, 2)
        scale = float(alpha) / (rank**0.5 if self._config.get("use_rslora") else rank)
        return Layer(a, b, scale, parts.get("m"))

    def _sizes(self, parameter: str) -> tuple[int, int]:
        """Give what PEFT takes for outputs and inputs of one of transformers' parameters; see `lay_out`."""
        *_, outputs, inputs = self._links[parameter][0].shape
        return outputs, inputs

    def _setting(self, key: str, parameter: str, default: float) -> int:
        """Read a layer's own rank or alpha, as PEFT does: the first pattern that its name ends with."""
        named = (parameter, parameter.removesuffix(".weight"))
        patterns = (self._config.get(key) or {}).items()
        fits = (value for end, value in patterns if any(re.match(LAYER_END.format(end), name) for name in named))
        return next(fits, default)  # type: ignore[return-value]

    def _divide(self, parameter: str, layer: Layer) -> list[tuple[Link, Layer]]:
        """Divide a layer of transformers between the model's."""
        links = self._links[parameter]
        rows = {link.other_box[axes_of(link)[0]].start for link in links}
        blocks = _blocks(layer, sorted(rows))
        found = []
        for link in links:
            box = link.other_box[axes_of(link)[0]]
            span = blocks[sorted(rows).index(box.start)]
            m = None if layer.m is None else layer.m[box]
            if is_matrix_of_experts(link):
                expert = link.other_box[0].start
                found.append((link, Layer(layer.a[expert], layer.b[expert], layer.scale)))
                continue
            found.append((link, Layer(layer.a[..., span, :], layer.b[..., box, span], layer.scale, m)))
        return found

    def _tables(self) -> dict[str, Array]:
        """Give what was trained whole, by the model's names; a tied head is the table that it is tied to."""
        found: dict[str, Array] = {}
        for parameter, value in self._wholes.items():
            said = self._said[parameter]
            for link in self._links[parameter]:
                if value.shape != link.shape:
                    msg = f"{self._where}: {said} is {value.shape}, expected {link.shape}; was its vocabulary another?"
                    raise CheckpointError(msg)
                if len(self._places.links[link.own]) != 1:
                    msg = f"{self._where}: {said} is only a part of {link.own}, which is not read"
                    raise CheckpointError(msg)
                found[link.own] = link.take(value)
        return found


def axes_of(link: Link) -> tuple[int, int]:
    """Say which axis of transformers' array has the outputs, and which the inputs."""
    if len(link.shape) == 2:  # noqa: PLR2004 - a matrix
        return 0, 1
    if is_matrix_of_experts(link):
        return 1, 2
    long = [axis for axis, part in enumerate(link.own_box) if part.stop - part.start > 1]
    order = [long[axis] for axis in link.turn]
    return (2, 1) if order.index(2) < order.index(1) else (1, 2)


def _blocks(layer: Layer, rows: Sequence[int]) -> list[slice]:
    """Say which of a layer's ranks each of its parts uses: all, or those of its own where factors were joined."""
    rank, count = layer.a.shape[-2], len(rows)
    whole = [slice(0, rank)] * count
    if count == 1 or rank % count:
        return whole
    size = rank // count
    spans = [slice(place * size, (place + 1) * size) for place in range(count)]
    stops = [*rows[1:], layer.b.shape[-2]]
    for place, (start, stop) in enumerate(zip(rows, stops, strict=True)):
        part = layer.b[..., start:stop, :]
        if part[..., : place * size].any() or part[..., (place + 1) * size :].any():
            return whole
    return spans if layer.b.any() else whole


def _own_arrays(layer: Layer, rank: int, scale: float) -> dict[str, Array]:
    """Lay out a layer as the model has it, of one rank and scale: a scale of its own goes into B."""
    a, b = layer.a, layer.b
    lacking = rank - a.shape[-2]
    if lacking:
        # B is 0 there, so that the logits stay, and A is not, so that it is trained.
        more = np.random.default_rng(0).uniform(-1, 1, (*a.shape[:-2], lacking, a.shape[-1])) / a.shape[-1] ** 0.5
        a = np.concatenate([a, more.astype(a.dtype)], axis=-2)
        b = np.concatenate([b, np.zeros((*b.shape[:-1], lacking), b.dtype)], axis=-1)
    if layer.scale != scale:
        b = b * b.dtype.type(layer.scale / scale)
    is_stack = a.ndim == 3  # noqa: PLR2004 - experts
    found = {"lora_a": a if is_stack else a.T, "lora_b": b if is_stack else b.T}
    return found if layer.m is None else {**found, "m": layer.m}
