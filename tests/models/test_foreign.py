"""What the code of others raises, made an error of vlora's."""

from collections.abc import Callable

import pytest
from PIL import Image

from vlora import models
from vlora.data.format.samples import format_sample
from vlora.errors import ModelError, SampleError
from vlora.models.foreign import foreign


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("odd"), AssertionError("odd"), RuntimeError("odd")])
def test_whatever_is_raised_is_named(error: Exception) -> None:
    """An error of any type becomes the one that is made of it."""
    with pytest.raises(SampleError, match=r"row 3: .*odd"), foreign(lambda found: SampleError(f"row 3: {found}")):
        raise error


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[malloc] Unable to allocate 12 bytes."), ModelError("said"), KeyboardInterrupt()],
)
def test_what_is_nobodys_fault_passes(error: BaseException) -> None:
    """A lack of memory, an interrupt, and what vlora has said itself."""
    with pytest.raises(type(error)) as caught, foreign(lambda _: SampleError("blamed")):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(("encoding", "notes"), [("ascii", 1), ("utf-8", 0)])
def test_an_encoding_of_the_process_is_named(encoding: str, notes: int) -> None:
    """Cron and containers may have none of UTF-8; a file that is no UTF-8 is the file's own fault."""
    with pytest.raises(SampleError, match=r"^blamed") as caught, foreign(lambda _: SampleError("blamed")):
        b"\xc2".decode(encoding)
    said = getattr(caught.value, "__notes__", [])

    assert len(said) == notes
    assert all("PYTHONUTF8=1" in note for note in said)


def test_a_lack_of_memory_is_no_bad_row(encoder: Callable[..., models.Encoder]) -> None:
    """A good row is not left out because the processor found no memory for it."""
    subject = encoder("qwen3_vl")
    row = {"image": Image.new("RGB", (32, 32)), "question": "what?", "answer": "a square"}
    subject(format_sample(row))

    def full(**_: object) -> dict[str, object]:
        raise MemoryError

    subject.processor_call._call = full
    with pytest.raises(MemoryError):
        subject(format_sample({**row, "question": "and now?"}))
