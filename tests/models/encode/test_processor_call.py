"""The processor's call: settled before threads run, and made once per row."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from tests.models.encode.conversations import LONG, ONE, TEXT, TWO, every_family, sample_of
from vlora import Sample
from vlora.data.prefetch import WorkerPool
from vlora.errors import SampleError
from vlora.models import Encoder
from vlora.models.encode.processor_call import ProcessorCall
from vlora.types import Example

Encoding = Callable[..., Encoder]


class Counting:
    """A processor that counts its calls."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.n_calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Count the call and pass it on."""
        self.n_calls += 1
        return self.processor(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Give what the processor has."""
        return getattr(self.processor, name)


@every_family
def test_processor_runs_once_per_row(family: str, encoder: Encoding) -> None:
    """After the first row the processor runs once per row with images, and with all of its images."""
    encode = encoder(family)
    encode.processor = Counting(encode.processor)
    encode(ONE)
    before = encode.processor.n_calls

    for sample in (ONE, TWO, LONG):
        encode(sample)

    assert encode.processor.n_calls == before + 3


def is_same(one: Example, other: Example) -> bool:
    """Whether two examples have the same tokens, masks and pixels."""
    arrays = [(one.tokens, other.tokens), (one.supervised, other.supervised)]
    arrays += [(value, other.inputs[name]) for name, value in one.inputs.items() if isinstance(value, np.ndarray)]
    return one.inputs.keys() == other.inputs.keys() and all(np.array_equal(*pair) for pair in arrays)


@every_family
def test_any_first_rows_settle_the_same_call(family: str, encoder: Encoding) -> None:
    """A row with an image, another one, or none at all: encoded rows are those of an encoder that was not prepared."""
    expected = encoder(family)(ONE)

    for first in ([TEXT, TWO], [ONE], [TEXT], []):
        encode = encoder(family)
        encode.prepare(first)
        assert encode.processor_call.is_settled
        assert is_same(encode(ONE), expected)


def noted(rows: Iterable[Sample], drawn: list[Sample]) -> Iterator[Sample]:
    """Yield rows, and note those that have been asked for."""
    for row in rows:
        drawn.append(row)
        yield row


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "llava_onevision"])
def test_a_text_row_first_and_several_threads(family: str, encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an encoder is prepared, no thread tries how the processor is called, and rows are those of one thread."""
    rows = [TEXT, ONE, TWO, TEXT, LONG, ONE, TWO, LONG]
    expected = [encoder(family)(row) for row in rows]
    encode = encoder(family)
    drawn: list[Sample] = []
    encode.prepare(noted(rows, drawn))
    monkeypatch.setattr(ProcessorCall, "_find", lambda *_: pytest.fail("a thread tried how the processor is called"))

    with WorkerPool(4) as workers:
        found = list(workers.map(encode, rows, len(rows)))

    assert len(drawn) == 2
    assert all(map(is_same, found, expected))


@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_threads_settle_one_call(family: str, encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of an encoder that was not prepared try once, whichever is first."""
    encode, find = encoder(family), ProcessorCall._find
    tried: list[Any] = []

    def noting(*args: Any) -> Any:
        tried.append(args)
        return find(*args)

    monkeypatch.setattr(ProcessorCall, "_find", noting)

    with WorkerPool(4) as workers:
        list(workers.map(encode, [ONE] * 8, 8))

    assert len(tried) == 1


def test_rows_that_cannot_be_encoded_settle_nothing(encoder: Encoding) -> None:
    """A bad row among the first is left to be reported when it is its turn; the next one settles the call."""
    bad = sample_of(("user", "<>", "<|image_pad|>?"), ("assistant", "Yes."), images=ONE.images)
    encode = encoder("qwen2_vl")
    drawn: list[Sample] = []

    encode.prepare(noted((bad, ONE, TWO), drawn))

    assert drawn == [bad, ONE]
    with pytest.raises(SampleError):
        encode(bad)


def test_preparing_opens_no_image(encoder: Encoding, tmp_path: Path) -> None:
    """A row settles the call with blank images in place of its own, which need not even be there."""
    encode = encoder("qwen2_vl")

    encode.prepare([attrs.evolve(ONE, images=(str(tmp_path / "missing.png"),))])

    assert encode.processor_call.is_settled
