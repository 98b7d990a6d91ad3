"""Evidence from any exception and any value: it never raises, and what it makes is a valid event of its topic."""

from __future__ import annotations

import json
import math
import subprocess
import urllib.error
from datetime import UTC, datetime
from email.message import Message
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omium import Agent, Evidence, ToolResponse, codec
from omium.evidence import clean, error_info, json_text, response_of
from omium.run import Run

from schemas import codec as theirs
from schemas import topics
from schemas.codec import Decoded
from schemas.records import FailureEvent


class LoudError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Hostile(BaseException):
    """Everything that may be asked of it raises."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name in ("exceptions",):
            return super().__getattribute__(name)
        raise SystemExit(f"{name}?")

    def __str__(self) -> str:
        raise GeneratorExit


class Answer:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


texts = st.text(st.characters(), max_size=40) | st.sampled_from(["\ud800", "\x00", "x" * 300_000, "\u20ac" * 90_000])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def exceptions(draw: st.DrawFn) -> BaseException:
    """Exceptions with attributes of any kind, groups, and chains that may be circular."""
    made: list[BaseException] = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(
            st.sampled_from([ValueError, LoudError, Hostile, KeyError, OSError, UnicodeDecodeError, ExceptionGroup])
        )
        text = draw(texts)
        if kind is ExceptionGroup:
            error: BaseException = ExceptionGroup(text, [ValueError(text), LoudError()])
        elif kind is UnicodeDecodeError:
            error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, text)
        else:
            error = kind(draw(st.integers()) if kind is OSError else text, text)
        if kind is ValueError:
            for name in draw(st.sets(st.sampled_from(["code", "status_code", "response", "headers", "returncode"]))):
                value = draw(json_values | st.builds(Answer, status_code=json_values, headers=json_values))
                setattr(error, name, value)
        made.append(error)
    for error in made:
        error.__cause__ = draw(st.none() | st.sampled_from(made))
        error.__context__ = draw(st.none() | st.sampled_from(made))
    return made[0]


class Post:
    """A client that keeps what would be sent."""

    tenant_id = "acme"
    agent = Agent(id="a")
    source = "omium/client/a"

    class pending:  # noqa: N801
        expect = staticmethod(lambda *_: None)
        ended = staticmethod(lambda *_, **__: True)

    def __init__(self) -> None:
        self.sent: list[codec.Message] = []
        self.problems = 0

    def post(self, message: codec.Message) -> None:
        self.sent.append(message)

    def lost(self, _what: str) -> None:
        self.problems += 1


def reported(error: BaseException | str | None, **evidence: Any) -> FailureEvent:
    """What the orchestrator reads of a report."""
    post = Post()
    Run(post, "run", None, None).report(error, **evidence)  # type: ignore[arg-type]
    assert post.problems == 0
    [message] = post.sent
    assert len(message.value) + sum(len(n) + len(v) for n, v in message.headers) < 250 * 1024
    read = theirs.decode(topics.FAILURES.name, message.value, list(message.headers))
    assert isinstance(read, Decoded), read
    assert isinstance(read.record, FailureEvent)
    return read.record


@settings(max_examples=150, deadline=None)
@given(exceptions())
def test_any_exception(error: BaseException) -> None:
    failure = reported(error)
    assert failure.error is not None
    assert failure.error.class_name
    assert len(failure.error.cause_chain) <= 16


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Evidence.__annotations__, json_values)))
def test_any_evidence(evidence: dict[str, Any]) -> None:
    """Whatever is given for whatever field: what does not fit is left out, the failure is reported."""
    reported("no", **evidence)


def test_everything_too_large_at_once() -> None:
    big = "\u20ac" * 300_000
    many = [{"tool": big, "call_fingerprint": big}] * 1000
    failure = reported(
        ValueError(big),
        output={"a": big},
        reasoning=[big] * 10,
        facts={"a": big},
        conclusion=big,
        execution={"prompt": big, "tools": [big] * 1000, "model": big},
        tool_response={"tool": big, "error": big, "body": big, "headers": {str(n): big for n in range(500)}},
        calls=many,
        required_steps=[big] * 1000,
        subject_ids=[big] * 1000,
        checkpoint={"id": "c", "data": big, "uri": big},
        step=big,
    )
    assert failure.error is not None
    assert failure.error.message is not None
    assert failure.error.message.endswith("\u2026")
    assert failure.checkpoint is not None
    assert failure.output is None, "half an object would look like a wrong one"


def test_checkpoint_data_above_its_bound(caplog: pytest.LogCaptureFixture) -> None:
    failure = reported("no", checkpoint={"id": "c", "data": ["x" * 20_000]})
    assert failure.checkpoint is not None
    assert failure.checkpoint.data is None
    assert "needs a uri" in caplog.text


def test_a_chain_and_its_codes() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "refused")
        except OSError as cause:
            raise RuntimeError("calling") from cause
    except RuntimeError as error:
        info = error_info(error)
    assert (info.class_name, info.message) == ("RuntimeError", "calling")
    [cause] = info.cause_chain
    assert (cause.class_name, cause.code) == ("ConnectionRefusedError", "ECONNREFUSED")


def test_suppressed_context_is_no_cause() -> None:
    error = ValueError("y")
    error.__context__, error.__suppress_context__ = KeyError("x"), True
    assert error_info(error).cause_chain == ()


def test_of_an_answer_the_waiting_times_and_nothing_else() -> None:
    headers = Message()
    headers["Retry-After"] = "7"
    headers["Set-Cookie"] = "session=secret"
    headers["Authorization"] = "Bearer secret"
    error = urllib.error.HTTPError("http://x", 429, "Too Many", headers, None)
    failure = reported(error, tool_response=ToolResponse(tool="search"))
    assert failure.tool_response is not None
    assert failure.tool_response.headers == {"retry-after": "7"}
    assert (failure.tool_response.tool, failure.tool_response.status_code) == ("search", 429)
    assert failure.error is not None
    assert failure.error.http_status == 429
    assert "secret" not in failure.model_dump_json()


def test_an_aws_error() -> None:
    error = ValueError("denied")
    error.response = {  # type: ignore[attr-defined]
        "Error": {"Code": "ThrottlingException"},
        "ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "2"}},
    }
    info, answer = error_info(error), response_of(error)
    assert (info.code, info.http_status) == ("ThrottlingException", 429)
    assert answer is not None
    assert answer.headers == {"retry-after": "2"}


def test_exit_codes() -> None:
    assert error_info(subprocess.CalledProcessError(-9, "x")).exit_code == -9


def test_locals_arguments_and_environment_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2")

    def fail(token: str) -> None:
        assert token
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        fail("hunter2")
    assert "hunter2" not in reported(caught.value).model_dump_json()


def test_of_an_output_only_what_is_constrained() -> None:
    failure = reported(
        "no", output={"apr": 0, "name": "Ada"}, constraints={"apr": {"type": "range", "min": 1, "max": 9}}
    )
    assert failure.output == '{"apr":0}'


@given(json_values)
def test_json_text_is_json(value: Any) -> None:
    text = json_text(value, 1000, "x")
    if text is not None:
        assert len(text.encode()) <= 1000
        json.loads(text, parse_constant=lambda name: pytest.fail(name))


@given(texts, st.integers(10, 5000))
def test_clean_text_fits(text: str, limit: int) -> None:
    assert len(clean(text, limit).encode()) <= limit


def test_numbers_that_json_does_not_have() -> None:
    assert json_text([math.nan, math.inf, 10**400], 1000, "x") == '["nan","inf","huge"]'


def test_times() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert reported("no", occurred_at=at).occurred_at == at.replace(microsecond=678000)
    assert reported("no", occurred_at=datetime.min).occurred_at is not None
