"""Processors and tokenizers of mlx-vlm and transformers, called from several threads and for the host alone.

What is put into their place is of one instance, or of one call.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.models import base

from ...types import IntArray

TO_DEVICE = "to_mlx"
"""What mlx-vlm's processors make device arrays with of what they computed on the host (models/base.py:36)."""

PER_IMAGE = "_process_one"
"""The method of mlx-vlm's image processors that cuts one image into patches."""


def settle_tokenizer(tokenizer: Any) -> None:
    """Let a tokenizer that is not going to change be asked by several threads, and quickly."""
    _call_one_at_a_time(tokenizer)
    _list_vocabulary_once(tokenizer)


def _call_one_at_a_time(tokenizer: Any) -> None:
    """Let one thread at a time tokenize, and the others wait.

    Fast tokenizers set padding and truncation on themselves in every call, and fail ("Already borrowed") if that
    happens while another thread tokenizes.
    """
    if "_encode_plus" in vars(tokenizer) or not hasattr(tokenizer, "_encode_plus"):
        return
    lock, encode = threading.Lock(), tokenizer._encode_plus  # noqa: SLF001 - what all its ways to tokenize come down to

    @functools.wraps(encode)
    def encode_alone(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return encode(*args, **kwargs)

    tokenizer._encode_plus = encode_alone  # noqa: SLF001


def _list_vocabulary_once(tokenizer: Any) -> None:
    """Let a tokenizer list its vocabulary once.

    Fast tokenizers make a new table for every question: 0.2 s for 151,000 tokens, in which no other thread has the
    interpreter. Some processors ask for every row (step3p7/processing_step3p7.py:150).
    """
    if "get_vocab" not in vars(tokenizer) and hasattr(tokenizer, "get_vocab"):
        tokenizer.get_vocab = functools.cache(tokenizer.get_vocab)


def on_host(processor: Any) -> Callable[..., Mapping[str, Any]]:
    """Give what calls a processor and leaves its results on the host, where it computed them.

    Device arrays would be copies that are copied back: on CUDA in memory that is found for each of them and given back,
    while the thread of the training step waits for CUDA's lock.

    Args:
        processor: One of mlx-vlm's; what others give stays where it is.

    Returns:
        What is called as the processor is.
    """
    call = type(processor).__call__
    if not isinstance(call, FunctionType) or call.__globals__.get(TO_DEVICE) is not base.to_mlx:
        found: Callable[..., Mapping[str, Any]] = processor
        return found
    names = {**call.__globals__, TO_DEVICE: leave_on_host}
    own = FunctionType(call.__code__, names, call.__name__, call.__defaults__, call.__closure__)
    own.__kwdefaults__ = call.__kwdefaults__
    return functools.partial(own, processor)


def repeat_without_copies(processor: Any) -> None:
    """Let a processor's images be repeated along time as views of one array, which the next reshape copies once.

    `np.repeat` holds the interpreter while it copies: of a photo of 512 x 512 pixels a quarter of the time for which
    its processing holds it, and no training step is handed to the device meanwhile. On an H200 a first epoch took a
    tenth longer (qwen3_vl/processing_qwen3_vl.py:380).

    Args:
        processor: One of mlx-vlm's; others stay as they are.
    """
    part = getattr(processor, "image_processor", None)
    own = getattr(type(part), PER_IMAGE, None)
    if isinstance(own, FunctionType) and own.__globals__.get("np") is np:
        names = {**own.__globals__, "np": _NumpyOfViews()}
        found = FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
        found.__kwdefaults__ = own.__kwdefaults__
        # Also where there is one: a copied processor has that of the one that it was copied from.
        setattr(part, PER_IMAGE, MethodType(found, part))


class _NumpyOfViews:
    """NumPy, but that an axis of length 1 is repeated as a view, which nothing can be written to."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def repeat(self, array: Any, repeats: Any, axis: int | None = None) -> Any:
        """Repeat as `np.repeat` does."""
        if axis is None or np.shape(array)[axis] != 1 or np.ndim(repeats):
            return np.repeat(array, repeats, axis)
        shape = list(array.shape)
        shape[axis] = repeats
        return np.broadcast_to(array, shape)


def leave_on_host(data: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a processor's results into host arrays where `to_mlx` would make device arrays, of the same types."""
    return {name: _as_array(value) for name, value in data.items()}


def _as_array(value: Any) -> Any:
    if not isinstance(value, (list, np.ndarray)):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        # Of different lengths.
        return value
    if array.dtype.kind not in "biuf":
        return value
    return array.astype(np.float32) if array.dtype == np.float64 else array


def token_ids(outputs: Mapping[str, Any]) -> IntArray:
    """Read a processor's ids of one row."""
    ids = np.asarray(outputs["input_ids"], dtype=np.int32)
    return ids.reshape(-1)


def to_host(value: Any) -> Any:
    """Turn device arrays into host arrays, lists of them included; leave the rest."""
    if isinstance(value, mx.array):
        return np.array(value.astype(mx.float32) if value.dtype == mx.bfloat16 else value)
    if isinstance(value, list):
        items = [to_host(item) for item in value]
        if items and all(isinstance(item, np.ndarray) and item.shape == items[0].shape for item in items):
            return np.stack(items)
        return items
    return value
