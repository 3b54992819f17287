"""What vlora raises, and what it says."""

import ast
import importlib
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlora
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


PACKAGE = Path(vlora.__file__).parent
ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "ChoiceError": (("adamw", ("adam", "sgd")), {}),
    "ColumnError": (("found nothing", 3), {}),
    "EndedError": ((15,), {}),
    "OutOfMemoryError": (("step 3", "found", batch_of(2)), {"is_host": True, "remedy": "wait"}),
    "SplitError": (("found 'c'", ("a", "b")), {"key": "data.split"}),
}
"""What classes are made of that take something else than a message and a key."""


def find_error_classes() -> list[type[BaseException]]:
    """Import every class of the package whose name says that it is an error."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        names = [
            node.name
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
        ]
        if names:
            module = importlib.import_module(".".join(["vlora", *file.relative_to(PACKAGE).with_suffix("").parts]))
            found += [getattr(module, name) for name in names]
    return found


def test_every_error_can_be_sent_to_another_process() -> None:
    """It is the same there: its class, what it says, and all that it knows."""
    kinds = find_error_classes()
    assert len(kinds) > 20
    for kind in kinds:
        is_ours = issubclass(kind, VloraError)
        args, options = ARGUMENTS.get(kind.__name__, (("found nothing",), {"key": "data.path"} if is_ours else {}))
        error = kind(*args, **options)
        error.add_note("seen once")
        found = pickle.loads(pickle.dumps(error))

        assert type(found) is kind
        assert (str(found), repr(found), found.args) == (str(error), repr(error), error.args)
        assert vars(found).keys() == vars(error).keys()
        assert found.__notes__ == ["seen once"]
        assert str(error.args[0]) in repr(error)


def test_an_error_is_written_with_all_that_it_knows() -> None:
    """For logs and debuggers: its key, and what its class has besides; of a batch its description."""
    assert repr(VloraError("lower it")) == "VloraError('lower it')"
    assert repr(SampleError("lower it", key="data.path")) == "SampleError('lower it', key='data.path')"
    assert repr(SplitError("found 'c'", "ab", key="k")) == "SplitError(\"found 'c'\", key='k', splits=('a', 'b'))"
    shown = repr(OutOfMemoryError("step 3", "found", batch_of(1), dimension=7))
    assert "where='step 3', found='found', batch='1 rows of " in shown
    assert "dimension=7" in shown


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
    assert str(VloraError("x")) == "x"
