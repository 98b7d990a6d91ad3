"""Hypothesis strategies for every record, derived from its fields and their bounds."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any

import annotated_types as at
import orjson
from hypothesis import strategies as st
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from schemas.records import Event, Record
from schemas.records.base import _to_json_text, from_epoch_ms

_TEXT = st.text(max_size=30)
_LAST_MS = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000)
_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
_JSON = st.recursive(
    _SCALARS | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
# Free-form fields keep what JSON can hold; None there is the field's own absence.
_JSON_TEXT = _JSON.filter(lambda value: value is not None).map(lambda value: orjson.dumps(value).decode())


@cache
def records(record: type[Record]) -> st.SearchStrategy[Any]:
    """Any instance of `record`, with its optional fields or without."""
    fields = {name: _field(info) for name, info in record.model_fields.items()}
    return st.builds(record, **fields)


def events(event: type[Event]) -> st.SearchStrategy[Event]:
    """Any instance of `event`."""
    return records(event)


def _field(info: FieldInfo) -> st.SearchStrategy[Any]:
    return _type(info.annotation, info.metadata)


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> st.SearchStrategy[Any]:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = [meta for each in args[1:] for meta in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return _type(args[0], [*inner, *metadata])
    if origin in (typing.Union, types.UnionType):
        return st.one_of(st.none() if arg is type(None) else _type(arg, metadata) for arg in args)
    if origin is tuple:
        return st.lists(_type(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(_TEXT, _type(args[1]), max_size=3)
    if issubclass(annotation, Record):
        return records(annotation)
    if issubclass(annotation, Enum):
        return st.sampled_from(list(annotation))
    return _scalar(annotation, list(metadata))


def _scalar(annotation: type, metadata: list[Any]) -> st.SearchStrategy[Any]:
    low = next((meta.ge for meta in metadata if isinstance(meta, at.Ge)), None)
    high = next((meta.le for meta in metadata if isinstance(meta, at.Le)), None)
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high)
    if annotation is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    if annotation is datetime:
        return st.integers(0, _LAST_MS).map(from_epoch_ms)
    if annotation is bytes:
        return st.binary(max_size=30)
    assert annotation is str
    if any(isinstance(meta, BeforeValidator) and meta.func is _to_json_text for meta in metadata):
        return _JSON_TEXT
    pattern = next((meta.pattern for meta in metadata if getattr(meta, "pattern", None) is not None), None)
    if pattern is None:
        return _TEXT
    longest = next((meta.max_length for meta in metadata if isinstance(meta, at.MaxLen)), 64)
    return st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= longest)
