"""Rows as long as their numbers, one of them bad, and what reads them; for the tests of loading without a model."""

from typing import Literal

import numpy as np

from vlora.data.loader import DataLoader
from vlora.data.prefetch import WorkerPool
from vlora.data.rows import RowDataset
from vlora.data.values import Row
from vlora.errors import SampleError
from vlora.recipe.schema import DataSection
from vlora.types import Example, RowMark, Sample

N_ROWS = 6
BAD = 2


def make_rows(name: str = "rows") -> RowDataset:
    """Make rows whose answers are their numbers."""
    table = [{"question": "a", "answer": str(number)} for number in range(N_ROWS)]
    return RowDataset(name=name, table=table, indices=list(range(N_ROWS)))


def encode(sample: Sample) -> tuple[Example]:
    """Make a row as long as its number, and 8 tokens; one of them is bad."""
    number = int(sample.turns[-1].text)
    if number == BAD:
        msg = f"{sample.source}: is bad"
        raise SampleError(msg)
    places = np.arange(number + 8, dtype=np.int32)
    return (Example(sample.source, places, places > 3, places < 0),)


def mark(index: int, row: Row, sample: Sample) -> RowMark:
    """Name a row by its answer."""
    del sample
    return RowMark(index=index, digest=str(row["answer"]))


def make_loader(workers: WorkerPool, rows: RowDataset, *, on_bad_row: Literal["skip", "raise"] = "skip") -> DataLoader:
    """Make a loader of batches of two rows."""
    return DataLoader(
        train=rows,
        data=DataSection(path="-", on_bad_row=on_bad_row),
        batch_size=2,
        workers=workers,
        encode=encode,
        mark=mark,
    )
