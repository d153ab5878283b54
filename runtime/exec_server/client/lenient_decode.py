"""Decoding what a newer server may say differently.

Models ignore members they do not know. Where a model promises one of a few strings, such as the
names of output streams, a string it does not know is kept as it came. Everything else that does not
fit is an error.
"""

from __future__ import annotations

import operator
import types
import typing
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

ModelT = TypeVar("ModelT", bound=msgspec.Struct)


@lru_cache(maxsize=256)
def decoder(model: type[ModelT]) -> Callable[[msgspec.Raw | bytes], ModelT]:
    """A function that decodes JSON into a model whose choices are open.

    It raises ``msgspec.ValidationError`` for anything else that does not fit.
    """
    decode_strictly = msgspec.json.Decoder(model).decode

    def decode(data: msgspec.Raw | bytes) -> ModelT:
        try:
            return decode_strictly(data)
        except msgspec.ValidationError as error:
            if "Invalid enum value" not in str(error):
                raise
            opened: ModelT = msgspec.json.decode(data, type=_open_model(model))
            return opened

    return decode


@lru_cache(maxsize=256)
def _open_model(model: type[ModelT]) -> type[ModelT]:
    """A subclass of the model that takes any string where the model has a choice."""
    hints = typing.get_type_hints(model, include_extras=True)
    changed: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(model):
        hint = _open_type(hints[field.name])
        if hint is not hints[field.name]:
            default: Any = {"default": field.default, "default_factory": field.default_factory}
            changed.append((field.name, hint, msgspec.field(**default)))
    if not changed:
        return model
    subclass: Any = msgspec.defstruct(
        f"Open{model.__name__}", changed, bases=(model,), frozen=True, kw_only=True
    )
    opened: type[ModelT] = subclass
    return opened


def _open_type(hint: Any) -> Any:
    """The type with its choices of strings made any string; the same object if it has none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return str
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _open_model(hint)
    if origin is Annotated:
        inner = _open_type(arguments[0])
        return hint if inner is arguments[0] else Annotated[(inner, *arguments[1:])]
    if origin in (Union, types.UnionType, list, dict):
        opened = tuple(map(_open_type, arguments))
        if all(new is old for new, old in zip(opened, arguments, strict=True)):
            return hint
        return origin[opened] if origin in (list, dict) else reduce(operator.or_, opened)
    return hint
