"""What vlora raises, and what it says."""

import inspect
import pickle

import numpy as np
import pytest

from vlora import collate, errors
from vlora.errors import LongRowError, OutOfMemoryError, SampleError, SplitError, VloraError, describe_batch
from vlora.types import Batch, Example


def batch_of(n_rows: int) -> Batch:
    """Make a batch of rows of three tokens."""
    tokens, nothing = np.arange(3, dtype=np.int32), np.zeros(3, dtype=np.bool_)
    return collate([Example(f"row {number}", tokens, ~nothing, nothing) for number in range(n_rows)])


def test_all_errors_are_one_kind() -> None:
    """The command line prints them without a traceback; programs may catch them as `ValueError`."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]

    assert len(kinds) > 5
    assert all(issubclass(kind, VloraError) for kind in kinds)
    assert issubclass(VloraError, ValueError)
    assert issubclass(LongRowError, SampleError)


def test_secrets_are_left_out() -> None:
    """An address's password is not repeated."""
    assert "secret" not in str(VloraError("https://user:secret@host/rows.jsonl cannot be read"))


@pytest.mark.parametrize(("n_rows", "more"), [(2, ""), (4, ""), (7, " and 3 more")])
def test_a_batch_is_described_by_its_first_rows(n_rows: int, more: str) -> None:
    """Its size, and the names of four rows."""
    batch = batch_of(n_rows)
    names = ", ".join(f"row {number}" for number in range(min(n_rows, 4)))

    assert describe_batch(batch) == f"{batch.tokens.shape[0]} rows of {batch.tokens.shape[1]} tokens ({names}{more})"


def test_a_lack_of_memory_says_what_needs_less() -> None:
    """The device's or the host's; a remedy or a message that is given comes first."""
    device = OutOfMemoryError("step 3", "found", batch_of(1))
    host = OutOfMemoryError("step 3", "found", is_host=True)

    assert str(device).startswith("step 3: out of memory with 1 rows of ")
    assert "(found); lower train.batch_size" in str(device)
    assert str(host).startswith("step 3: out of host memory (found); lower data.workers")
    assert str(OutOfMemoryError("saving", "found", remedy="do this")).endswith("(found); do this")
    assert str(OutOfMemoryError("saving", "found", message="all of it")) == "all of it"
    assert (device.where, device.found, device.is_host, device.remedy) == ("step 3", "found", False, "")


def test_an_error_begins_with_what_it_is_about() -> None:
    """A recipe's key, or the argument that a command has in its place; what is said behind it stays as it is."""
    error = SplitError("data.split is one of 'a', 'b'", ("a", "b"), key="data.split")
    assert str(error) == "data.split: data.split is one of 'a', 'b'"
    error.rename({"model.path": "--base"})
    assert error.key == "data.split"
    error.rename({"data.split": "--split"})

    assert str(error) == "--split: data.split is one of 'a', 'b'"
    copied = pickle.loads(pickle.dumps(VloraError("x", key="a.b")))
    assert str(copied) == "a.b: x"
    assert str(VloraError("x")) == "x"
