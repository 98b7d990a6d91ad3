"""Events for the classifier's tests."""

from __future__ import annotations

from typing import Any

import orjson

from schemas.records import Category, Cause, Classification, ErrorInfo, FailureEvent, ToolResponse, parse_json_text
from streams.decide.classify import classify

_FREE_FORM = ("output", "constraints", "reasoning", "conclusion", "expected_output", "facts")


def event(**fields: Any) -> FailureEvent:
    """An event whose free-form fields are given as values."""
    given = {name: orjson.dumps(value).decode() if name in _FREE_FORM else value for name, value in fields.items()}
    return FailureEvent(tenant_id="t", execution_id="e", **given)


def error(message: str = "", class_name: str | None = None, **fields: Any) -> FailureEvent:
    """An event that knows only an exception."""
    of_event = {name: fields.pop(name) for name in ("origin", "protocol") if name in fields}
    return event(error=ErrorInfo(message=message, class_name=class_name, **fields), **of_event)


def tool(status: int | None = None, text: str | None = None, **fields: Any) -> FailureEvent:
    """An event that knows only a tool's answer."""
    of_event = {name: fields.pop(name) for name in ("origin", "protocol", "constraints", "output") if name in fields}
    if "body" in fields:
        fields["body"] = orjson.dumps(fields["body"]).decode()
    return event(tool_response=ToolResponse(tool="api", status_code=status, error=text, **fields), **of_event)


def chained(*links: tuple[str, str]) -> FailureEvent:
    """An exception and its causes, outermost first, each a class and a message."""
    outer, *causes = links
    return event(
        error=ErrorInfo(
            class_name=outer[0],
            message=outer[1],
            cause_chain=tuple(Cause(class_name=name, message=text) for name, text in causes),
        )
    )


def said(given: FailureEvent) -> str:
    """`category/subtype` of the verdict."""
    verdict = classify(given)
    return f"{verdict.category}/{verdict.subtype}"


def details(verdict: Classification) -> dict[str, Any]:
    value = parse_json_text(verdict.details)
    assert isinstance(value, dict)
    return value


def broken(output: Any, constraints: Any) -> list[tuple[str, str]]:
    """(path, rule) of every violation, first the one that gave the verdict; empty where it is no hallucination."""
    verdict = classify(event(output=output, constraints=constraints))
    if verdict.category is not Category.HALLUCINATION:
        return []
    return [(item["path"], item["rule"]) for item in details(verdict)["violations"]]
