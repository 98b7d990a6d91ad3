"""One sentence for a person, and the severity, of each subtype that an error can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.records import Category, Severity

SENTENCES: Final[Mapping[str, str]] = {
    "range_violation": "The model gave a value outside its allowed range",
    "enum_violation": "The model gave a value that is not among the allowed ones",
    "format_violation": "The model's output does not have the form that was asked for",
    "unknown_tool": "The model called a tool that does not exist",
    "unknown_identifier": "The model used a name that does not exist where it ran",
    "rate_limit": "The service refused the call because too many were made; waiting helps",
    "timeout": "No answer came in time",
    "auth_error": "The service did not accept the credentials, or they do not permit the call",
    "not_found": "What was asked for does not exist",
    "service_unavailable": "The service failed on its own side; it may work again later",
    "network_error": "The connection to the service failed",
    "quota_exhausted": "The account's quota, credit or budget is used up; waiting does not help",
    "content_policy": "A policy on content blocked the request or its answer",
    "invalid_request": "The service refused the request as it stands; repeating it unchanged does not help",
    "bad_response": "The service answered something that cannot be used",
    "retries_exhausted": "Every retry of the call was used up",
    "incorrect_assumption": "The reasoning rests on an assumption that the facts contradict",
    "wrong_conclusion": "The conclusion is not the expected one",
    "missing_step": "A required step was left out",
    "incomplete_analysis": "A required factor was left out",
    "loop": "The agent went in circles, or used up its steps",
    "invalid_history": "The message history is not one that the model's service accepts",
    "state_conflict": "What the call works on was changed meanwhile, is in use, or is there already",
    "missing_context": "Something that the step needed was not given to it",
    "no_final_answer": "The agent ended without an answer",
    "runtime_error": "The agent's own code or set-up is at fault",
    "out_of_memory": "The run needed more memory than it had",
    "token_limit_exceeded": "The request or the answer is longer than the model allows",
    "control_flow": "No failure: the run was ended, cancelled or handed on on purpose, or waits for a person",
}

_SEVERITIES: Final[Mapping[str, Severity]] = {
    "auth_error": Severity.HIGH,
    "quota_exhausted": Severity.HIGH,
    "content_policy": Severity.HIGH,
    "out_of_memory": Severity.HIGH,
    "range_violation": Severity.HIGH,
    "enum_violation": Severity.HIGH,
    "unknown_tool": Severity.HIGH,
    "unknown_identifier": Severity.HIGH,
    "rate_limit": Severity.LOW,
    "control_flow": Severity.LOW,
}


def severity(subtype: str) -> Severity:
    """How much harm a failure of this subtype does if it is acted on."""
    return _SEVERITIES.get(subtype, Severity.MEDIUM)


_WHERE: Final[Mapping[str, str]] = {
    "error.message": "the error says",
    "error.class": "the exception is",
    "error.code": "the error's code is",
    "error.exit_code": "the process ended with exit code",
    "error.http_status": "the HTTP status is",
    "tool_response.error": "the tool said",
    "tool_response.status_code": "the tool answered with status",
    "tool_response.body": "the tool's answer holds the code",
}
_CAUSES: Final[Mapping[str, str]] = {
    "message": "a cause within says",
    "class": "a cause within is",
    "code": "a cause within has the code",
    "http_status": "a cause within has the HTTP status",
}


def sentence(category: Category, subtype: str) -> str:
    """One sentence, without its full stop, on what happened."""
    if category is Category.PERFORMANCE and subtype == "timeout":
        return "The run took longer than it was allowed"
    return SENTENCES.get(subtype, "The cause is not known")


def where(path: str) -> str:
    """The place of evidence in words: `error.http_status` is `the HTTP status is`."""
    return _WHERE.get(path) or _CAUSES.get(path.rpartition(".")[2]) or f"{path} says"
