"""Parts of a model's parameters are found in transformers', when both are read off the same published tensors."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from vlora.models.published.links import assemble, find_links
from vlora.models.published.tracing import trace

SHAPES = {
    "qkv": (12, 5),
    "gate.0": (4, 3),
    "gate.1": (4, 3),
    "up.0": (4, 3),
    "up.1": (4, 3),
    "conv": (4, 3, 2, 2),
    "n": (3,),
}


def own(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Rename as one reader does."""
    queries, rest = mx.split(weights["qkv"], [4])
    return {
        "q": queries,
        "kv": rest,
        "gate": mx.stack([weights["gate.0"], weights["gate.1"]]),
        "up": mx.stack([weights["up.0"], weights["up.1"]]),
        "conv": weights["conv"].transpose(0, 2, 3, 1),
        "n": weights["n"] + 1,
    }


def other(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Rename as another one does."""
    keys, values = mx.split(weights["qkv"][4:], [4])
    experts = [mx.concatenate([weights[f"gate.{number}"], weights[f"up.{number}"]]) for number in range(2)]
    stacked = mx.stack(experts).swapaxes(1, 2)
    return {
        "Q": weights["qkv"][:4],
        "K": keys,
        "V": values,
        "gate_up": stacked,
        "conv": weights["conv"],
        "n": weights["n"],
    }


def test_arrays_of_one_reader_become_those_of_the_other_and_back() -> None:
    """Whatever is split, stacked, joined or turned on either side."""
    weights = {name: mx.array(np.random.default_rng(len(name)).normal(size=shape)) for name, shape in SHAPES.items()}
    ours = {name: np.array(value) for name, value in own(weights).items()}
    theirs = {name: np.array(value) for name, value in other(weights).items()}
    shapes = {name: value.shape for name, value in theirs.items()}
    links = find_links(trace(own, SHAPES), trace(other, SHAPES), shapes)
    assert set(links) == set(ours)
    made = assemble([link for parts in links.values() for link in parts], ours)
    assert set(made) == set(theirs)
    for name, value in made.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-6)
    for name, parts in links.items():
        for link in parts:
            np.testing.assert_allclose(link.take(theirs[link.other]), ours[name][link.own_box], rtol=1e-6)


def test_what_is_not_wholly_there_is_left_out() -> None:
    """A parameter of which a part is nowhere has no links, and an array that is not covered is not made."""
    pieces = trace(own, SHAPES)
    partial = {name: parts for name, parts in trace(other, SHAPES).items() if name != "V"}
    shapes = {"Q": (4, 5), "K": (4, 5), "gate_up": (2, 3, 8), "conv": (4, 3, 2, 2), "n": (3,)}
    links = find_links(pieces, partial, shapes)
    assert "kv" not in links
    assert assemble(links["gate"], {"gate": np.zeros((2, 4, 3))}) == {}
