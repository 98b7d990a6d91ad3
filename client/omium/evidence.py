"""From an exception and what the agent adds to the fields of a FailureEvent. Pure, bounded, never raises.

Read from an exception: class, message, code, HTTP status, exit code, cause chain, and of an HTTP answer
those headers that say when to come back. Never read: locals, arguments, environment, bodies, other headers.
"""

from __future__ import annotations

import errno
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from omium.records import (
    Budget,
    Cause,
    Checkpoint,
    ErrorInfo,
    Evidence,
    Execution,
    Metrics,
    ToolCall,
    ToolResponse,
    UtcMs,
    Value,
)

_log = logging.getLogger("omium")
_KIB: Final = 1024
# In bytes of UTF-8. Together they stay below the 256 KiB that a message may have.
MESSAGE_BYTES: Final = 8 * _KIB
CAUSE_BYTES: Final = 1 * _KIB
CAUSES: Final = 16
TEXT_BYTES: Final = 512
PROMPT_BYTES: Final = 16 * _KIB
CHECKPOINT_BYTES: Final = 16 * _KIB
LISTED: Final = 50
FREE_FORM_BYTES: Final = {
    "output": 40 * _KIB,
    "reasoning": 24 * _KIB,
    "facts": 16 * _KIB,
    "constraints": 16 * _KIB,
    "conclusion": 8 * _KIB,
    "expected_output": 8 * _KIB,
}
BODY_BYTES: Final = 16 * _KIB
MAX_DEPTH: Final = 32
MAX_NODES: Final = 10_000
_HEADERS: Final = ("retry-after", "x-should-retry", "ratelimit", "x-ratelimit", "x-rate-limit", "content-type", "date")


def clean(text: str, limit_bytes: int) -> str:
    """`text` as UTF-8 can hold it (a lone surrogate becomes `?`), cut to `limit_bytes`."""
    raw = text[: limit_bytes + 1].encode("utf-8", "replace")
    if len(raw) <= limit_bytes:
        return raw.decode()
    return raw[: limit_bytes - 3].decode("utf-8", "ignore") + "\u2026"


def attempt(read: Callable[[], Any]) -> Any:
    """What `read` gives, or None where it raises: exceptions of strangers have properties that do."""
    try:
        return read()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None


# -- exceptions -------------------------------------------------------------------------------------


def error_info(error: BaseException | str) -> ErrorInfo:
    """What the exception says of itself and of its causes."""
    if isinstance(error, str):
        return ErrorInfo(message=clean(error, MESSAGE_BYTES))
    chain = list(_causes(error))
    own = _cause(error, MESSAGE_BYTES)
    links = tuple(Cause(**_cause(each, CAUSE_BYTES)) for each in chain)
    return ErrorInfo(**own, exit_code=_exit_code(error), cause_chain=links)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The causes, nearest first, each once: chains may be circular."""
    seen = {id(error)}
    waiting = list(_direct(error))
    while waiting and len(seen) <= CAUSES:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting.extend(_direct(cause))


def _direct(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions[:CAUSES]
    if error.__cause__ is not None:
        yield error.__cause__
    elif error.__context__ is not None and not error.__suppress_context__:
        yield error.__context__


def _cause(error: BaseException, limit_bytes: int) -> dict[str, Any]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    message = attempt(lambda: str(error))
    status = _status(error)
    return {
        "class_name": clean(name, TEXT_BYTES),
        "message": clean(message, limit_bytes) if isinstance(message, str) else None,
        "code": _code(error, status),
        "http_status": status,
    }


def _first(error: BaseException, *paths: str) -> Iterator[Any]:
    """Values at the dotted attribute or key paths that there are."""
    for path in paths:
        value: Any = error
        for name in path.split("."):
            value = attempt(partial(_at, value, name))
        if value is not None:
            yield value


def _at(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _status(error: BaseException) -> int | None:
    paths = ("status_code", "http_status", "response.status_code", "status", "response.status", "code")
    for value in _first(error, *paths, "response.ResponseMetadata.HTTPStatusCode"):
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            return int(value)
    return None


def _code(error: BaseException, status: int | None) -> str | None:
    for value in _first(error, "code", "error.code", "response.Error.Code", "sqlstate", "error_code", "reason_code"):
        if callable(value):  # grpc
            value = attempt(value)
        value = attempt(partial(getattr, value, "name", value))
        if isinstance(value, int) and not isinstance(value, bool) and value != status and abs(value) < 2**63:
            return str(int(value))
        if isinstance(value, str) and value:
            return clean(value, TEXT_BYTES)
    number = attempt(lambda: error.errno) if isinstance(error, OSError) else None
    return errno.errorcode.get(number) if isinstance(number, int) else None


def _exit_code(error: BaseException) -> int | None:
    for value in _first(error, "returncode", "exit_code"):
        if isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31:
            return int(value)
    return None


def response_of(error: BaseException) -> ToolResponse | None:
    """Status and waiting times of the HTTP answer that an exception (or one of its causes) carries, if it does."""
    for each in (error, *_causes(error)):
        headers = next(iter(_first(each, "response.headers", "headers", "response.ResponseMetadata.HTTPHeaders")), None)
        items = attempt(partial(_items, headers)) if headers is not None else None
        if not isinstance(items, list):
            continue
        told = {
            clean(name.lower(), TEXT_BYTES): clean(str(value), TEXT_BYTES)
            for name, value in items
            if isinstance(name, str) and name.lower().startswith(_HEADERS) and isinstance(value, str | int | float)
        }
        if told:
            return ToolResponse(status_code=_status(each), headers=told)
    return None


def _items(headers: Any) -> list[tuple[Any, Any]]:
    return list(headers.items())[:LISTED]


# -- free-form values -------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: text is cleaned, NaN and what JSON does not know become text.

    Raises ValueError where it is deeper than 32 levels or has more than 10,000 values.
    """
    budget = [MAX_NODES]

    def walk(item: Any, depth: int) -> Any:
        budget[0] -= 1
        if budget[0] < 0 or depth > MAX_DEPTH:
            raise ValueError("too deep or too many values")
        if item is None or isinstance(item, bool):
            return item
        if isinstance(item, int):
            return int(item) if abs(item) < 2**63 else str(float(item)) if abs(item) < 10**300 else "huge"
        if isinstance(item, float):
            return float(item) if math.isfinite(item) else str(float(item))
        if isinstance(item, str):
            return str.encode(item, "utf-8", "replace").decode()
        if isinstance(item, Mapping):
            return {walk(str(k), depth): walk(v, depth + 1) for k, v in item.items()}
        if isinstance(item, Sequence | set | frozenset) and not isinstance(item, bytes | bytearray):
            return [walk(each, depth + 1) for each in item]
        if isinstance(item, Value) or hasattr(item, "model_dump"):
            return walk(item.model_dump(mode="json"), depth)
        # What else there is says itself best; repr could quote secrets.
        return f"<{type(item).__name__}>"

    return walk(value, 0)


def json_text(value: Any, limit_bytes: int, name: str) -> str | None:
    """`value` as JSON text within the bounds. A text is cut, a list keeps its end, anything else is left out."""
    try:
        value = plain(value)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) <= limit_bytes:
            return text
        if isinstance(value, str):
            return json.dumps(clean(value, limit_bytes // 2), ensure_ascii=False)
        if isinstance(value, list) and len(value) > 1:
            _log.info("omium: %s is larger than %d bytes: only its end is sent", name, limit_bytes)
            return json_text(value[(len(value) + 1) // 2 :], limit_bytes, name)
        problem = f"larger than {limit_bytes} bytes"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        problem = type(error).__name__
    _log.warning("omium: %s is not sent: %s", name, problem)
    return None


def constrained(output: Any, constraints: Any) -> Any:
    """Of an output that is an object, the fields that constraints by field speak of; else the output as it is."""
    if not isinstance(output, Mapping) or not isinstance(constraints, Mapping):
        return output
    return {name: output[name] for name in constraints if name in output} or output


# -- the event --------------------------------------------------------------------------------------


def _valid(model: type[Value], value: Any, name: str) -> dict[str, Any] | None:
    """`value` as the record of its model, without what does not fit."""
    if value is None:
        return None
    if isinstance(value, Value):
        value = dict(value)
    for _ in range(LISTED):
        try:
            return model.model_validate(value).model_dump(by_alias=True, exclude_none=True)
        except ValidationError as error:
            wrong = {str(problem["loc"][0]) for problem in error.errors(include_input=False) if problem["loc"]}
            _log.warning("omium: %s is sent without %s", name, ", ".join(sorted(wrong)) or "its value")
            if not isinstance(value, Mapping) or not wrong & set(value):
                return None
            value = {k: v for k, v in value.items() if k not in wrong}
    return None


def _texts(values: Any) -> list[str]:
    if isinstance(values, str):
        values = [values]
    return [clean(str(v), TEXT_BYTES) for v in list(values)[:LISTED]]


def tool_response(given: Any, error: BaseException | None) -> dict[str, Any] | None:
    """What the agent gave of the answer, completed by what the exception carries."""
    found = response_of(error) if error is not None else None
    record = _valid(ToolResponse, given, "tool_response") or {}
    if found is not None:
        record = {
            **found.model_dump(exclude_none=True, include={"status_code"}),
            **record,
            "headers": {**found.headers, **record.get("headers", {})},
        }
    if not record:
        return None
    body = record.pop("body", None)
    if body is not None:
        record["body"] = json_text(body, BODY_BYTES, "tool_response.body")
    for name in ("tool", "call_fingerprint", "idempotency_key"):
        if name in record:
            record[name] = clean(record[name], TEXT_BYTES)
    if "error" in record:
        record["error"] = clean(record["error"], MESSAGE_BYTES)
    headers = list(record.get("headers", {}).items())[:LISTED]
    record["headers"] = {clean(k, TEXT_BYTES): clean(v, TEXT_BYTES) for k, v in headers}
    record["fallbacks"] = _texts(record.get("fallbacks", ()))
    return record


def checkpoint(given: Any) -> dict[str, Any] | None:
    """The claim on a checkpoint, its data as JSON text; data above 16 KiB is left out, with an error in the log."""
    record = _valid(Checkpoint, {"id": given} if isinstance(given, str) else given, "checkpoint")
    if record is None:
        return None
    data = record.pop("data", None)
    if data is not None and not record.get("uri"):
        text = json_text(data, CHECKPOINT_BYTES, f"data of checkpoint {record['id']!r}")
        if text is None:
            _log.error("omium: checkpoint %r needs a uri: its data is above 16 KiB and is not sent", record["id"])
        else:
            record["data"] = text
    for name in ("uri", "sha256"):
        if name in record:
            record[name] = clean(record[name], 4 * TEXT_BYTES)
    return record


def failure_fields(error: BaseException | str | None, evidence: Evidence) -> dict[str, Any]:
    """Fields of a FailureEvent, ready for Avro: all but the identities. What does not fit is left out."""
    given: Mapping[str, Any] = evidence
    exception = error if isinstance(error, BaseException) else None
    makers: dict[str, Callable[[Any], Any]] = {
        **{name: partial(_free_form, name=name, constraints=given.get("constraints")) for name in FREE_FORM_BYTES},
        "metrics": partial(_valid, Metrics, name="metrics"),
        "budget": partial(_valid, Budget, name="budget"),
        "checkpoint": checkpoint,
        "execution": _execution,
        "calls": _calls,
        "required_steps": _texts,
        "subject_ids": _texts,
        "step": lambda value: clean(str(value), TEXT_BYTES),
        "occurred_at": _TIME.validate_python,
        **{name: partial(_symbol, name) for name in _SYMBOLS},
    }
    record: dict[str, Any] = {}
    if error is not None:
        record["error"] = error_info(error).model_dump(by_alias=True)
    record["tool_response"] = _made(
        "tool_response", partial(tool_response, error=exception), given.get("tool_response")
    )
    for name, make in makers.items():
        if given.get(name) is not None:
            record[_FIELDS.get(name, name)] = _made(name, make, given[name])
    return {name: value for name, value in record.items() if value is not None}


def _made(name: str, make: Callable[[Any], Any], given: Any) -> Any:
    try:
        return make(given)
    except Exception as error:
        _log.warning("omium: %s is not sent: %s", name, type(error).__name__)
        return None


def _free_form(value: Any, *, name: str, constraints: Any) -> str | None:
    if name == "output":
        value = constrained(value, constraints)
    return json_text(value, FREE_FORM_BYTES[name], name)


def _symbol(name: str, value: Any) -> str | None:
    return value if value in _SYMBOLS[name] else None


def _calls(given: Any) -> list[dict[str, Any]]:
    calls = [_valid(ToolCall, call, "calls") for call in list(given)[-LISTED:]]
    return [{k: clean(v, TEXT_BYTES) if isinstance(v, str) else v for k, v in call.items()} for call in calls if call]


_SYMBOLS: Final = {
    "origin": ("unknown", "model", "tool", "runtime"),
    "protocol": ("none", "http", "mcp", "a2a", "grpc"),
    "side_effects": ("unknown", "none", "idempotent", "unsafe"),
}
_TIME: Final = TypeAdapter(UtcMs)
_FIELDS: Final = {"side_effects": "side_effects_since_checkpoint"}


def _execution(given: Any) -> dict[str, Any] | None:
    record = _valid(Execution, given, "execution")
    if record is None:
        return None
    if "prompt" in record:
        record["prompt"] = clean(record["prompt"], PROMPT_BYTES)
    if "model" in record:
        record["model"] = clean(record["model"], TEXT_BYTES)
    record["tools"] = _texts(record.get("tools", ()))
    return record
