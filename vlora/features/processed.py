"""Rows whose images need neither be decoded nor processed: what the processor made of them, but for the pixels.

Where the features of a row's images are kept, the model does not read their pixels. The rest of the processor's output
is small: the tokens with their placeholders, sizes, grids. It is kept beside the features, under a key of the text and
the images. Pixels that are read all the same are computed then.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from ..types import Example, IntArray
from .cache import FeatureCache

SMALL_BYTES = 2**16
"""Whole numbers in arrays up to this size are kept with a row: grids, sizes, kinds of tokens. All else is pixels."""

_TOKENS, _SIZES, _NAMES, _INPUT = "tokens", "sizes", "names", "input "


@attrs.define(eq=False)
class Processed:
    """What a row's images and text became.

    Attributes:
        tokens: i32[T], placeholders expanded.
        inputs: The processor's other outputs.
        image_sizes: (width, height) of each image as given to the processor.
    """

    tokens: IntArray
    inputs: Mapping[str, Any]
    image_sizes: tuple[tuple[int, int], ...]


@attrs.define(eq=False)
class DeferredInputs(Mapping[str, Any]):
    """A processor's outputs, of which the large ones are computed when one is first read.

    Attributes:
        names: Of all, in the processor's order.
        known: Those that are there.
        make: Runs the processor.
    """

    names: tuple[str, ...]
    known: Mapping[str, Any]
    make: Callable[[], Processed]
    _made: Mapping[str, Any] | None = attrs.field(default=None, init=False)

    def __getitem__(self, name: str) -> Any:
        """Give an output."""
        if name in self.known:
            return self.known[name]
        if name not in self.names:
            raise KeyError(name)
        if self._made is None:
            self._made = self.make().inputs
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names)

    def __len__(self) -> int:
        """Count the outputs."""
        return len(self.names)


@attrs.frozen(eq=False)
class ProcessedCache:
    """Remembers rows for as long as the features of their images are kept. Threads may share it.

    Attributes:
        cache: Where they are kept.
        has_features: Whether all features of a row are kept.
    """

    cache: FeatureCache
    has_features: Callable[[Example], bool]

    def get_or_compute(self, key: str, make: Callable[[], Processed]) -> Processed:
        """Give what a row became, its large inputs deferred; it is made now if it is not remembered.

        Args:
            key: Stands for the row's text and images.
            make: Decodes the images and runs the processor.
        """
        found = self.cache.get_host(key)
        if found is None:
            made = make()
            self._keep(key, made)
            return made
        names = bytes(found[_NAMES]).decode().split("\n")
        known = {name.removeprefix(_INPUT): value for name, value in found.items() if name.startswith(_INPUT)}
        sizes = tuple((int(width), int(height)) for width, height in found[_SIZES])
        return Processed(found[_TOKENS], DeferredInputs(tuple(names), known, make), sizes)

    def materialize(self, example: Example) -> Example:
        """Make the deferred inputs of a row now if they will be needed."""
        if isinstance(example.inputs, DeferredInputs) and not self.has_features(example):
            return attrs.evolve(example, inputs=dict(example.inputs))
        return example

    def _keep(self, key: str, made: Processed) -> None:
        small = {
            f"{_INPUT}{name}": value
            for name, value in made.inputs.items()
            if isinstance(value, np.ndarray) and value.dtype.kind in "iub" and value.nbytes <= SMALL_BYTES
        }
        names = np.frombuffer("\n".join(made.inputs).encode(), dtype=np.uint8)
        sizes = np.array(made.image_sizes, dtype=np.int32)
        self.cache.put_host(key, {_TOKENS: made.tokens, _SIZES: sizes, _NAMES: names, **small})
