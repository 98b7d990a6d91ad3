"""What a FailureEvent says about an error, gathered into levels from the outermost exception to the innermost cause."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import re2

from schemas.records import Cause, ErrorInfo, FailureEvent, FailureOrigin, Protocol, ToolResponse, parse_json_text

MAX_TEXT_CHARS: Final = 4_096
"""Of a longer message the head and the tail are read: what went wrong stands in one of them."""
_TAIL_CHARS: Final = 1_024
_MAX_BODY_NODES: Final = 200

_CODE_KEYS: Final = frozenset(
    [
        "code",
        "type",
        "status",
        "reason",
        "error_code",
        "errorcode",
        "error_type",
        "__type",
        "title",
        "kind",
        "error",
        "name",
        "sqlstate",
    ]
)
_TEXT_KEYS: Final = frozenset(
    [
        "message",
        "error",
        "detail",
        "details",
        "msg",
        "description",
        "error_description",
        "error_message",
        "errormessage",
        "errors",
        "raw",
        "text",
        "reason",
        "title",
        "data",
        "content",
    ]
)
_STATUS_KEYS: Final = frozenset(["status_code", "statuscode", "http_status", "httpstatus", "code", "status"])
_FAILED: Final = re2.compile(r"(?i)^(?:error|fail(?:ed|ure)?)$|_(?:limit|denied|exceeded)$")
"""What a body says as its status when it failed: JSend, Google Maps."""


class Level(NamedTuple):
    """One layer of an error: an exception, one of its causes, or the answer of the tool."""

    depth: int
    """0 is the exception that ended the run; the innermost cause has the greatest."""
    path: str
    class_name: str | None = None
    codes: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    text: str = ""


def levels(event: FailureEvent) -> list[Level]:
    """Every layer that the event shows, outermost first."""
    found: list[Level] = []
    error = event.error
    if error is not None:
        found.append(_cause_level(error, 0, "error"))
        for index, cause in enumerate(error.cause_chain):
            found.append(_cause_level(cause, index + 1, f"error.cause_chain.{index}"))
    if event.tool_response is not None:
        found.append(_tool_level(event.tool_response, len(found)))
    return found


def protocol_of(event: FailureEvent) -> str:
    """The protocol that the event names, else the one that its exception's class or its codes betray."""
    if event.protocol is not Protocol.NONE:
        return event.protocol.value
    name = (event.error.class_name or "").lower() if event.error is not None else ""
    for protocol in ("a2a", "mcp", "grpc"):
        if protocol in name:
            return protocol
    if event.tool_response is not None and event.tool_response.status_code is not None:
        return "http"
    return "none"


def origin_of(event: FailureEvent) -> str:
    """The origin that the event names; an answer of a tool that reports an error speaks for the tool."""
    if event.origin is not FailureOrigin.UNKNOWN:
        return event.origin.value
    tool = event.tool_response
    if tool is not None and (tool.error is not None or (tool.status_code or 0) >= 400):
        return "tool"
    return "unknown"


def bounded(text: str) -> str:
    """`text`, or the head and the tail of it."""
    if len(text) <= MAX_TEXT_CHARS:
        return text
    return text[: MAX_TEXT_CHARS - _TAIL_CHARS] + "\n" + text[-_TAIL_CHARS:]


def _cause_level(cause: Cause, depth: int, path: str) -> Level:
    codes = (cause.code,) if cause.code else ()
    if isinstance(cause, ErrorInfo) and cause.exit_code is not None:
        codes = (*codes, f"exit:{cause.exit_code}")
    return Level(
        depth=depth,
        path=path,
        class_name=cause.class_name,
        codes=codes,
        statuses=(cause.http_status,) if cause.http_status else (),
        text=bounded(cause.message or ""),
    )


def _tool_level(tool: ToolResponse, depth: int) -> Level:
    codes: list[str] = []
    statuses: list[int] = [tool.status_code] if tool.status_code else []
    texts: list[str] = [tool.error] if tool.error else []
    if tool.body:
        body = parse_json_text(tool.body)
        if isinstance(body, str):
            texts.append(body)
        elif _reports_an_error(tool, body):
            for key, value in _leaves(body):
                if isinstance(value, int) and not isinstance(value, bool):
                    if key in _STATUS_KEYS and 400 <= value <= 599:
                        statuses.append(value)
                    elif key in _CODE_KEYS:
                        codes.append(str(value))
                elif isinstance(value, str):
                    if key in _CODE_KEYS and len(value) <= 80 and " " not in value:
                        codes.append(value)
                    if key in _TEXT_KEYS:
                        texts.append(value)
    return Level(
        depth=depth,
        path="tool_response",
        codes=tuple(dict.fromkeys(codes)),
        statuses=tuple(dict.fromkeys(statuses)),
        text=bounded("\n".join(dict.fromkeys(texts))),
    )


def _reports_an_error(tool: ToolResponse, body: Any) -> bool:
    """A body is read as an error's where the status says so or the body itself does: an HTTP 200 may carry one."""
    if tool.error is not None or (tool.status_code or 0) >= 400:
        return True
    return isinstance(body, dict) and (
        bool(body.get("error") or body.get("errors") or body.get("isError") or body.get("is_error"))
        or body.get("ok") is False
        or body.get("success") is False
        or bool(body.get("error_message") or body.get("errorMessage"))
        or _FAILED.search(str(body.get("status"))[:80]) is not None
    )


def _leaves(body: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of the scalars in a parsed body, outermost first, a bounded number; a list's items have its key."""
    pending: list[tuple[str, Any]] = [("message", body)]
    for _ in range(_MAX_BODY_NODES):
        if not pending:
            return
        key, value = pending.pop(0)
        if isinstance(value, dict):
            pending.extend((str(name).lower(), item) for name, item in value.items())
        elif isinstance(value, list):
            pending.extend((key, item) for item in value[:_MAX_BODY_NODES])
        else:
            yield key, value
