"""Hypothesis strategies, one per record, as wide as the record allows."""

import json
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st

from vlora.recipe.converter import Names
from vlora.recipe.schema import (
    OPTIMIZERS,
    WITHOUT_WEIGHT_DECAY,
    DataSection,
    EvalSection,
    LoraSection,
    ModelSection,
    OptimSection,
    OutputSection,
    Recipe,
    TrainSection,
)
from vlora.types import Example

N_VOCABULARY = 50

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts.filter(bool)
places = names.filter(lambda name: "\0" not in name)
counts = st.integers(1, 10**6)
sides = st.integers(1, 2**16 - 1)
rates = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)
fractions = st.floats(0, 1, exclude_max=True)
json_values = st.recursive(texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
prompt_formats = json_values.filter(lambda value: not isinstance(value, str)).map(json.dumps)
toml_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | texts | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Draw recipes that contradict themselves nowhere."""
    full = draw(st.booleans())
    name = draw(st.sampled_from(OPTIMIZERS))
    held_out = draw(st.sampled_from([None, "valid_path", "valid_split", "valid_fraction"]))
    held_outs: dict[str, Any] = {}
    if held_out is not None:
        held_outs[held_out] = draw(places if held_out != "valid_fraction" else fractions.filter(bool))
    size = draw(st.sampled_from([None, "shape", "pixels"]))
    shuffle = draw(st.booleans())
    model = st.builds(
        ModelSection,
        path=places,
        full_finetune=st.just(full),
        train_vision=st.booleans(),
        adapter_path=st.none() if full else st.none() | places,
        trust_remote_code=st.booleans(),
        quantize_bits=st.none() if full else st.none() | st.sampled_from([2, 3, 4, 5, 6, 8]),
        quantize_group_size=st.sampled_from([32, 64, 128]),
    )
    data = st.builds(
        DataSection,
        path=places,
        split=places,
        config=st.none() | places,
        image_resize_shape=st.tuples(sides, sides) if size == "shape" else st.none(),
        max_pixels=counts if size == "pixels" else st.none(),
        custom_prompt_format=st.none() | prompt_formats,
        columns=st.dictionaries(texts, st.sampled_from(["images", "image", "tools", "unused"]), max_size=3)
        .filter(lambda columns: list(columns.values()).count("tools") < 2)
        .map(Names),
        image_root=st.none() | places,
        system=st.none() | names,
        max_seq_length=st.integers(2, 10**6),
        train_on_completions=st.booleans(),
        learn_end=st.booleans(),
        shuffle=st.just(shuffle),
        workers=st.none() | st.integers(0, 2**10),
        prefetch=counts,
        allow_urls=st.booleans(),
        on_long_row=st.sampled_from(["cut", "skip", "raise"]),
        on_bad_row=st.sampled_from(["raise", "skip"]),
        chat_template=st.none() | places,
        assistant_id=st.none() | st.integers(0, 10**6),
        **{key: st.just(value) for key, value in held_outs.items()},
    )
    lora = st.builds(LoraSection, rank=sides, alpha=rates, dropout=fractions)
    if not full:
        lora = st.builds(
            LoraSection,
            rank=sides,
            alpha=rates,
            dropout=fractions,
            targets=st.lists(names.filter(lambda name: not name.startswith("re:")) | st.just("re:.*q_proj")).map(tuple),
            last_layers=st.none() | counts,
            method=st.sampled_from(["lora", "dora"]),
            rslora=st.booleans(),
        )
    optim = st.builds(
        OptimSection,
        name=st.just(name),
        learning_rate=rates,
        weight_decay=st.just(0.0) if name in WITHOUT_WEIGHT_DECAY else st.just(0.0) | rates,
        betas=st.tuples(fractions, fractions),
        eps=rates,
        schedule=st.sampled_from(["constant", "linear", "cosine"]),
        warmup_steps=st.integers(0, 10**6),
        grad_clip=st.none() | rates,
    )
    recomputes = draw(st.booleans())
    stops_early = held_out is not None and draw(st.booleans())
    train = st.builds(
        TrainSection,
        **{field.name: counts for field in attrs.fields(TrainSection)}
        | {
            **draw(
                st.sampled_from([{"iters": counts, "epochs": st.none()}, {"iters": st.just(1000), "epochs": counts}])
            ),
            "batching": st.sampled_from(["shuffled", "grouped", "packed"] if shuffle else ["shuffled", "packed"]),
            "objective": st.just("sft"),
            "pack_length": st.none(),
            "grad_checkpoint": st.just(recomputes),
            "checkpoint_every": counts if recomputes else st.just(1),
            "shard": st.just("none"),
            "checkpoint_part": st.sampled_from(["layer", "mlp"] if recomputes else ["layer"]),
            "seed": st.integers(0, 2**32),
            "val_batches": st.just(-1) | counts,
            "early_stopping_patience": counts if stops_early else st.none(),
            "early_stopping_min_delta": fractions if stops_early else st.just(0.0),
        },
    )
    answers = st.builds(
        EvalSection, answer_rows=st.just(0) if held_out is None else st.integers(-1, 10**6), max_new_tokens=counts
    )
    return Recipe(
        model=draw(model),
        data=draw(data),
        lora=draw(lora),
        optim=draw(optim),
        train=draw(train),
        eval=draw(answers),
        output=OutputSection(path=draw(places)),
    )


@st.composite
def examples(draw: st.DrawFn, *, max_tokens: int = 80) -> Example:
    """Draw encoded text rows of tokens below `N_VOCABULARY`, position 0 never supervised."""
    n_tokens = draw(st.integers(1, max_tokens))
    tokens = draw(st.lists(st.integers(0, N_VOCABULARY - 1), min_size=n_tokens, max_size=n_tokens))
    supervised = draw(st.lists(st.booleans(), min_size=n_tokens, max_size=n_tokens))
    return Example(
        source=f"row {draw(st.integers(0, 99))}",
        tokens=np.array(tokens, dtype=np.int32),
        supervised=np.array([False, *supervised[1:]]),
        placeholders=np.zeros(n_tokens, dtype=np.bool_),
    )
