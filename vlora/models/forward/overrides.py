"""Replaces parts of one model instance while it runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models.base import scaled_dot_product_attention

from ...ops.modules import named_modules

ATTENTION = scaled_dot_product_attention.__name__

OWN_PACKAGE = __name__.partition(".")[0]

Override = Callable[[nn.Module], AbstractContextManager[Any]]

Attend = Callable[..., mx.array]
"""Attention, as mlx-vlm's models call it: (queries, keys, values, cache, scale, mask, sinks)."""


@contextmanager
def override_attributes(target: Any, **replacements: Any) -> Iterator[None]:
    """Shadow methods and attributes of one object; the class and every other object keep theirs."""
    own = {name: vars(target)[name] for name in replacements if name in vars(target)}
    for name, value in replacements.items():
        object.__setattr__(target, name, value)
    try:
        yield
    finally:
        for name in replacements:
            object.__delattr__(target, name)
        for name, value in own.items():
            object.__setattr__(target, name, value)


@contextmanager
def override_call(target: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Let calls of one module run a function instead."""
    cls = type(target)
    try:
        target.__class__ = type(
            f"Replaced{cls.__name__}", (cls,), {"__call__": lambda _, *args, **kwargs: function(*args, **kwargs)}
        )
        yield
    finally:
        target.__class__ = cls


def model_files(module: nn.Module) -> list[ModuleType]:
    """List the files that define a model's layers, in the order of the layers; each file once.

    A class that vlora has put in the place of a layer's own, as `override_call` does, stands for the class under it.
    Its own file is one of vlora's, and functions that are replaced there change what vlora itself calls.
    """
    classes = dict.fromkeys(type(child) for _, child in named_modules(module))
    return [sys.modules[name] for name in dict.fromkeys(map(_model_file, classes))]


def _model_file(cls: type) -> str:
    """Name the file of a class, or of the first class under it that is not vlora's."""
    return next(base.__module__ for base in cls.__mro__ if base.__module__.partition(".")[0] != OWN_PACKAGE)


@contextmanager
def replacing_in_files(module: nn.Module, name: str, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Replace a function in each of the files of a model's layers that has one of its name, which import it.

    Args:
        module: The model.
        name: The function's.
        replace: Takes what stands there, and gives what is to stand there.
    """
    with ExitStack() as stack:
        for file in model_files(module):
            if hasattr(file, name):
                current = getattr(file, name)
                stack.callback(setattr, file, name, current)
                setattr(file, name, replace(current))
        yield


def attending(module: nn.Module, attend: Attend) -> AbstractContextManager[None]:
    """Replace mlx-vlm's attention in the files of a model's layers; what else stands there stays."""
    own = scaled_dot_product_attention
    return replacing_in_files(module, ATTENTION, lambda current: attend if current is own else current)


def wrapping_attention(module: nn.Module, wrap: Callable[[Attend], Attend]) -> AbstractContextManager[None]:
    """Wrap the attention of a model's layers, whatever has replaced mlx-vlm's."""
    return replacing_in_files(module, ATTENTION, wrap)


def chain(*corrections: Override) -> Override:
    """Combine corrections into one."""

    @contextmanager
    def combined(model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for correction in corrections:
                stack.enter_context(correction(model))
            yield

    return combined


@contextmanager
def replaced_functions(**replacements: Callable[..., Any]) -> Iterator[None]:
    """Replace functions of `mlx.core` by name, only for as long as one model's language step is traced or run."""
    originals = {name: getattr(mx, name) for name in replacements}
    try:
        for name, function in replacements.items():
            setattr(mx, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(mx, name, function)
