"""The first and the last event of a run; a test changes what it is about."""

from pathlib import Path

from vlora.events import Device, Finished, Started
from vlora.facts import Columns, FeatureStorage, HeadUse, TemplateUse

STARTED = Started(
    device=Device(kind="cpu", name="a chip", memory_bytes=10**9),
    model_type="qwen3_vl",
    n_rows=7,
    n_valid_rows=0,
    n_steps=100,
    is_estimated=False,
    first_step=0,
    n_params=10,
    n_trainable=1,
    adapted=(),
    columns=Columns(),
    features=FeatureStorage(),
    template=TemplateUse(origin="model"),
    head=HeadUse(extent="chunks"),
)

FINISHED = Finished(
    step=3,
    n_steps=3,
    model="a/model",
    adapter=None,
    metrics=Path("metrics.jsonl"),
    example_image=None,
    example_question="Well?",
    max_new_tokens=8,
    n_skipped=0,
    n_traces=1,
    trace_s=0.1,
)
