"""What every record is made of: the frozen base, and the field types whose rules the wire needs.

Free-form content (an output, a checkpoint's data) is *JSON text* in the model and in Avro. A JSON
producer writes it as plain JSON instead; the codec passes `NATURAL` as validation context, and the
field turns the value into text. So one model serves both encodings.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    SerializationInfo,
    Strict,
    ValidationInfo,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import simple_ser_schema

NATURAL: Final = {"natural_json": True}
"""Validation or serialisation context: free-form fields are JSON values, not JSON text."""

MAX_JSON_DEPTH: Final = 32
MAX_JSON_NODES: Final = 10_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Record(BaseModel):
    """An immutable record. Unknown fields are ignored, as Avro's schema resolution ignores them."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        # Text is data of strangers: errors must not print it into logs.
        hide_input_in_errors=True,
    )


class Event(Record):
    """A record that is the value of a topic. `event_id` identifies what happened, not the delivery of it."""

    type_name: ClassVar[str]
    """Name of the schema folder and, prefixed, the CloudEvents type."""

    @property
    def event_id(self) -> str:
        raise NotImplementedError

    @property
    def key(self) -> str:
        """The Kafka message key: equal keys are ordered and have one writer of their state."""
        raise NotImplementedError


class WireEnum(StrEnum):
    """An enum whose first member is its default: a symbol from a newer writer becomes that one."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return next(iter(cls)) if isinstance(value, str) else None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        # Written as the text that it is: pydantic would ask each member for its value, half a microsecond in 3.11.
        return {**handler(source), "serialization": simple_ser_schema("str")}


def json_bounds_error(value: Any) -> str | None:
    """Why `value` is too deep or too large to walk later, or None. Iterative: never recurses itself."""
    level: list[Any] = [value]
    nodes = 0
    for _ in range(MAX_JSON_DEPTH + 1):
        nodes += len(level)
        if nodes > MAX_JSON_NODES:
            return f"more than {MAX_JSON_NODES} JSON values"
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return None
        level = below
    return f"JSON nested deeper than {MAX_JSON_DEPTH}"


def _to_json_text(value: Any, info: ValidationInfo) -> Any:
    if value is None or not (info.context and info.context.get("natural_json")):
        return value
    if error := json_bounds_error(value):
        raise ValueError(error)
    return orjson.dumps(value).decode()


def _from_json_text(value: str | None, info: SerializationInfo) -> Any:
    if value is None or not (info.context and info.context.get("natural_json")):
        return value
    return parse_json_text(value)


def parse_json_text(text: str) -> Any:
    """The value in a free-form field. Text that is no JSON (or is too deep) is taken as a plain string."""
    try:
        value = orjson.loads(text)
    except (ValueError, RecursionError):
        return text
    # Fewer brackets than the bound cannot exceed it; that spares nearly every value the walk.
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and json_bounds_error(value):
        return text
    return value


def _to_utc_ms(value: Any) -> Any:
    """Accept aware datetimes, ISO 8601 with an offset, and epoch milliseconds; cut to milliseconds."""
    if type(value) is datetime and value.tzinfo is UTC and value.microsecond % 1000 == 0:
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        try:
            return _EPOCH + timedelta(milliseconds=value)
        except OverflowError as error:
            raise ValueError("time out of range") from error
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError("a time needs its UTC offset")
    try:
        value = value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("time out of range") from error
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def epoch_ms(time: datetime) -> int:
    """Milliseconds since 1970-01-01 UTC, exact for times cut to milliseconds."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def from_epoch_ms(ms: int) -> datetime:
    """The UTC time of `ms` milliseconds since 1970-01-01."""
    return _EPOCH + timedelta(milliseconds=ms)


def _to_text(value: Any) -> Any:
    """Runtimes send codes as numbers or as text; the record holds text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _from_hex(value: Any, info: ValidationInfo) -> Any:
    """JSON has no bytes: they travel as hexadecimal digits there."""
    natural = info.context and info.context.get("natural_json")
    return bytes.fromhex(value) if natural and isinstance(value, str) else value


T = TypeVar("T")
Many = Annotated[tuple[T, ...], Strict(False)]
"""A list on the wire, a tuple here."""
Lenient = Annotated[T, Strict(False)]
"""For enums: their symbol is accepted as text."""

TenantId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Id = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Code = Annotated[str, BeforeValidator(_to_text)]
JsonText = Annotated[str, BeforeValidator(_to_json_text), PlainSerializer(_from_json_text)]
Bytes = Annotated[bytes, BeforeValidator(_from_hex)]
UtcMs = Annotated[datetime, BeforeValidator(_to_utc_ms)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(ge=0)]
MicroUsd = Annotated[int, Field(ge=0, le=2**53)]
Probability = Annotated[float, Field(ge=0, le=1)]


def execution_key(tenant_id: str, execution_id: str) -> str:
    """The message key of everything about one execution."""
    return f"{tenant_id}/{execution_id}"
