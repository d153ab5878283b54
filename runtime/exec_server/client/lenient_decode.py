"""Lenient decoding of messages, for servers that deviate from the schema in harmless ways.

Models ignore unknown members. Where the schema has an enumeration, such as the names of output
streams, an unknown string is kept; where it has an optional member, ``null`` is accepted, as codex
sends it. Any other mismatch is an error.
"""

from __future__ import annotations

import operator
import re
import types
import typing
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, Union

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

ModelT = TypeVar("ModelT", bound=msgspec.Struct)

_TOLERATED: Final = re.compile(r"Invalid enum value|got `null`")
"""Mismatches that the lenient model may accept, in the words of msgspec."""


@lru_cache(maxsize=256)
def decoder(model: type[ModelT]) -> Callable[[msgspec.Raw | bytes], ModelT]:
    """Return a function that decodes JSON into ``model``, leniently.

    The function raises ``msgspec.ValidationError`` for any other mismatch.
    """
    decode_strictly = msgspec.json.Decoder(model).decode

    def decode(data: msgspec.Raw | bytes) -> ModelT:
        try:
            return decode_strictly(data)
        except msgspec.ValidationError as error:
            if not _TOLERATED.search(str(error)):
                raise
            opened: ModelT = msgspec.json.decode(data, type=_open_model(model))
            return opened

    return decode


@lru_cache(maxsize=256)
def _open_model(model: type[ModelT]) -> type[ModelT]:
    """Return a subclass that accepts unknown enumeration values and null for optional members."""
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
    """Return the type without its enumerations; the same object if it has none."""
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
        if msgspec.UnsetType in arguments and types.NoneType not in arguments:
            opened = (*opened, types.NoneType)
        if opened == arguments:
            return hint
        return origin[opened] if origin in (list, dict) else reduce(operator.or_, opened)
    return hint
