"""What runtimes write in JSON for a FailureEvent although its schema wants something else, put into the schema's form.

A status as text, a header as a number, an error as a sentence: each says clearly what it means, and a dead letter would
leave the run on the floor. What does not is left as it is, for the schema to refuse. Bounds are the schema's alone:
nothing here is accepted that its plain form would not be. Avro is typed and never comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

_MAX_DIGITS: Final = 16
"""2**53 has as many; longer ones are identifiers."""
_WHOLE: Final = {
    "error": ("http_status", "exit_code"),
    "tool_response": ("status_code",),
    "metrics": ("memory_bytes", "memory_limit_bytes", "tokens", "token_limit", "steps", "step_limit"),
    "execution": ("sdk_retries",),
    "checkpoint": ("size_bytes",),
    "resumed_by": ("attempt",),
}
_AMOUNTS: Final = {"metrics": ("duration_s", "timeout_s"), "execution": ("timeout_s",)}
_SAID_AS_TEXT: Final = {"error": "message", "agent": "id", "checkpoint": "id"}
"""Records of which runtimes give only the field that matters."""
_ORIGINS: Final = {
    **dict.fromkeys(("agent", "framework", "sdk", "library", "orchestrator"), "runtime"),
    **dict.fromkeys(("llm", "provider"), "model"),
    **dict.fromkeys(("service", "api", "mcp"), "tool"),
}
"""Whom frameworks name besides."""
_MAX_NESTED: Final = 16
_RETRY_AFTER: Final = ("retry_after", "retryAfter", "retry-after")


def coerced(document: Mapping[str, Any]) -> dict[str, Any]:
    """`document` with common slips of form set right. Pure; never raises on parsed JSON."""
    result = dict(document)
    for name, field in _SAID_AS_TEXT.items():
        if isinstance(text := result.get(name), str):
            result[name] = {field: text}
    if isinstance(response := result.get("tool_response"), dict):
        result["tool_response"] = _response(response)
    for form, table in ((whole, _WHOLE), (amount, _AMOUNTS)):
        for name, fields in table.items():
            if isinstance(part := result.get(name), dict):
                result[name] = _with(form, part, fields)
    if isinstance(origin := result.get("origin"), str):
        result["origin"] = _ORIGINS.get(origin.lower(), origin)
    if isinstance(error := result.get("error"), dict):
        result["error"] = _error(error, result.pop("exit_code", None))
    return result


def _error(error: dict[str, Any], exit_code: Any) -> dict[str, Any]:
    causes = next((error[name] for name in ("cause_chain", "causes") if name in error), None)
    if causes is None:
        causes = _nested(error.get("cause"))
    if causes is not None:
        error = {**error, "cause_chain": _causes(causes)}
    if exit_code is not None and "exit_code" not in error:
        error = _with(whole, {**error, "exit_code": exit_code}, ("exit_code",))
    return error


def _with(form: Callable[[Any], Any], part: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    odd = {name: form(part[name]) for name in fields if isinstance(part.get(name), str | float)}
    return {**part, **odd} if odd else part


def whole(value: Any) -> Any:
    """429 for "429" and 429.0; anything else as it is."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 10**_MAX_DIGITS else value
    if isinstance(value, str):
        digits = value.strip()
        sign = digits[:1] == "-"
        if digits[sign:].isdecimal() and digits.isascii() and len(digits) <= _MAX_DIGITS:
            return int(digits)
    return value


def amount(value: Any) -> Any:
    """2.5 for "2.5"; anything else as it is."""
    if isinstance(value, str):
        digits = value.strip()
        if digits.isascii() and digits.replace(".", "", 1).isdecimal() and len(digits) <= _MAX_DIGITS:
            return float(digits)
    return value


def _nested(cause: Any) -> Any:
    """A chain of what JavaScript and others nest: each error holds its cause. A list is one already."""
    if cause is None or isinstance(cause, list):
        return cause
    chain: list[Any] = []
    while isinstance(cause, dict | str) and len(chain) < _MAX_NESTED:
        chain.append(cause)
        cause = cause.get("cause") if isinstance(cause, dict) else None
    return chain or None


def _causes(causes: Any) -> Any:
    return [_cause(cause) for cause in causes] if isinstance(causes, list) else causes


def _cause(cause: Any) -> Any:
    if isinstance(cause, str):
        return {"message": cause}
    return _with(whole, cause, ("http_status",)) if isinstance(cause, dict) else cause


def _response(response: dict[str, Any]) -> dict[str, Any]:
    """A tool's answer: headers as text, what it says of a retry among them, an error object as its body."""
    result = dict(response)
    headers = result.get("headers")
    if isinstance(headers, dict):
        headers = {name: text for name, value in headers.items() if (text := _header(value)) is not None}
        result["headers"] = headers
    for name in _RETRY_AFTER:
        value = _header(result.get(name))
        if isinstance(value, str) and (headers is None or isinstance(headers, dict)):
            known = headers or {}
            if not any(key.lower() == "retry-after" for key in known):
                result["headers"] = {**known, "retry-after": value}
            break
    if isinstance(error := result.get("error"), dict | list):
        said = error.get("message") if isinstance(error, dict) else None
        if result.get("body") is None:
            result["body"] = {"error": error}
            result["error"] = said if isinstance(said, str) else None
        else:
            result["error"] = said if isinstance(said, str) else orjson.dumps(error).decode()
    return result


def _header(value: Any) -> Any:
    """A header's value as text: a number in digits, several values joined; None where there is none."""
    if isinstance(value, bool) or value is None:
        return None if value is None else str(value).lower()
    if isinstance(value, int | float):
        return format(value, "f").rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    if isinstance(value, list) and value and all(isinstance(item, str | int) for item in value):
        return ", ".join(map(str, value))
    return value
