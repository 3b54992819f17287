"""Keys that stand for bytes."""

from hypothesis import given
from hypothesis import strategies as st

from vlora.system.digests import digest


@given(st.lists(st.binary(max_size=9), max_size=4), st.lists(st.binary(max_size=9), max_size=4))
def test_a_key_stands_for_its_parts(parts: list[bytes], others: list[bytes]) -> None:
    """The same parts have the same key, others another one, also where they are the same when joined."""
    assert (digest(parts) == digest(others)) == (parts == others)
    assert digest(map(memoryview, parts)) == digest(parts)


def test_keys_stay_what_they_are() -> None:
    """Features that an earlier run has kept are found by them."""
    assert digest([b"row", b""]) == "fa2176ed18088e8f1b384876b54a629a8f84de32"
