"""No bytes stop a worker: decode answers everything with a record or a reason, quickly and in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from any_record import events
from hypothesis import given, settings
from hypothesis import strategies as st
from poison import CARRIERS, avro_bombs, headed, zigzag

from schemas import codec
from schemas.codec import Decoded, Malformed, dead_letter, decode, to_avro, to_json
from schemas.records import DeadLetter, DeadLetterReason, FailureEvent
from schemas.topics import DEAD_LETTERS, FAILURES, Topic

MINIMAL = FailureEvent(tenant_id="t", execution_id="e")


def test_the_corpus_is_judged_in_bounded_memory_and_time() -> None:
    """In a process of its own, whose limits end it: a MemoryError would otherwise look like an answer."""
    program = Path(__file__).with_name("poison.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, cwd=program.parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 10_000


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{}", "invalid"),
        (b"[]", "invalid"),
        (b"{", "not_json"),
        (b"\xff\xfe", "not_utf8"),
        (b'{"tenant_id":"\xed\xa0\x80"}', "not_utf8"),
        (b'{"tenant_id":"\\ud800"}', "not_json"),
        (b'{"tenant_id":"t","execution_id":"e","metrics":{"duration_s":NaN}}', "not_json"),
        (b"[" * 100_000, "too_deep"),
        (b'{"tenant_id":"t","execution_id":"e","output":' + b"[" * 40 + b"]" * 40 + b"}", "too_deep"),
        (b'{"tenant_id":"t","execution_id":"e","error":{"http_status":99999999999999999999}}', "invalid"),
        (b'{"tenant_id":"a/b","execution_id":"e"}', "invalid"),
        (b'{"tenant_id":"t","execution_id":"e\\u0000"}', "invalid"),
        (b" " * (FAILURES.max_message_bytes + 1), "oversized"),
        (codec._MAGIC, "unknown_schema"),
        (codec._MAGIC + b"\x00" * 30, "unknown_schema"),
        (headed(next(t for t in CARRIERS if t.name == "agent.outcomes.v1"), b"\x00" * 50), "wrong_record"),
        (to_avro(MINIMAL) + b"\x00", "not_avro"),
        (to_avro(MINIMAL)[:-1], "not_avro"),
        (headed(FAILURES, b"\x06a/b" + b"\x02e" + b"\x00" * 60), "not_avro"),
    ],
)
def test_a_bad_message_has_its_reason(value: bytes | None, reason: str) -> None:
    """People search dead letters by it. None quotes the message: it may hold a secret."""
    result = decode(FAILURES.name, value)
    assert isinstance(result, Malformed)
    assert result.reason == reason
    assert len(result.error) <= 500


def test_nan_and_infinity_do_not_come_in_by_avro() -> None:
    record = FailureEvent.model_validate({"tenant_id": "t", "execution_id": "e", "metrics": {"duration_s": 1.5}})
    good = to_avro(record)
    for number in (b"\x00" * 6 + b"\xf8\x7f", b"\x00" * 6 + b"\xf0\x7f", b"\x00" * 6 + b"\xf0\xff"):
        bad = good.replace(b"\x00" * 6 + b"\xf8\x3f", number)
        assert bad != good
        result = decode(FAILURES.name, bad)
        assert isinstance(result, Malformed)
        assert result.reason == DeadLetterReason.INVALID


@pytest.mark.parametrize("topic", CARRIERS, ids=lambda topic: topic.name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_cut_at_any_byte_it_is_no_record(topic: Topic, data: st.DataObject) -> None:
    """A record that ends early must never pass for a shorter one."""
    assert topic.record is not None
    record = data.draw(events(topic.record))
    for whole in (to_avro(record), to_json(record)):
        for end in range(len(whole)):
            assert isinstance(decode(topic.name, whole[:end]), Malformed)


@settings(max_examples=400, deadline=None)
@given(topic=st.sampled_from(CARRIERS), value=st.binary(max_size=200), avro=st.booleans())
def test_any_bytes_have_an_answer(topic: Topic, value: bytes, avro: bool) -> None:
    assert isinstance(decode(topic.name, headed(topic, value) if avro else value), Decoded | Malformed)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), topic=st.sampled_from(CARRIERS))
def test_a_flipped_byte_has_an_answer(data: st.DataObject, topic: Topic) -> None:
    """Nearly right is worse than random: lengths, branches and counts go wrong deep inside."""
    assert topic.record is not None
    whole = bytearray(to_avro(data.draw(events(topic.record))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(10, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(decode(topic.name, bytes(whole)), Decoded | Malformed)


@settings(max_examples=200, deadline=None)
@given(
    topic=st.sampled_from(CARRIERS),
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    (
                        "tenant_id",
                        "execution_id",
                        "error",
                        "message",
                        "checkpoint",
                        "id",
                        "options",
                        "metrics",
                        "headers",
                    )
                ),
                inner,
            )
        ),
        max_leaves=12,
    ),
)
def test_any_json_has_an_answer(topic: Topic, document: Any) -> None:
    import json

    assert isinstance(decode(topic.name, json.dumps(document).encode()), Decoded | Malformed)


HEADER = st.tuples(st.sampled_from(("traceparent", "tracestate", "x")), st.none() | st.binary() | st.text())


@given(headers=st.lists(HEADER, max_size=5))
def test_any_headers_have_an_answer(headers: list[tuple[str, bytes | str | None]]) -> None:
    assert isinstance(decode(FAILURES.name, to_json(MINIMAL), headers), Decoded)


def test_a_header_that_is_no_text_has_an_answer() -> None:
    assert isinstance(decode(FAILURES.name, to_json(MINIMAL), [("traceparent", "\ud800")]), Decoded)


@settings(max_examples=100, deadline=None)
@given(
    value=st.none() | st.binary(max_size=300),
    key=st.none() | st.binary(max_size=3000),
    error=st.text(max_size=2000),
    reason=st.sampled_from(DeadLetterReason),
    keep=st.none() | st.booleans(),
)
def test_a_dead_letter_of_anything_can_be_written(
    value: bytes | None, key: bytes | None, error: str, reason: DeadLetterReason, keep: bool | None
) -> None:
    """Else the record that reports poison would be poison."""
    letter = dead_letter(
        Malformed(reason, error), worker="w", topic="t", partition=0, offset=0, key=key, value=value, keep_payload=keep
    )
    assert isinstance(letter, DeadLetter)
    assert decode(DEAD_LETTERS.name, to_avro(letter)) == Decoded(letter, "avro", ())


def test_the_dead_letter_of_the_largest_message_fits_its_topic() -> None:
    for size in (768 * 1024, max(topic.max_message_bytes for topic in CARRIERS)):
        letter = dead_letter(
            Malformed(DeadLetterReason.UNKNOWN_SCHEMA, "x" * 500),
            worker="w",
            topic="t",
            partition=0,
            offset=0,
            key=b"k" * 5000,
            value=b"v" * size,
        )
        # 70 bytes of batch and record framing, and the headers.
        assert len(to_avro(letter)) + 2048 < DEAD_LETTERS.max_message_bytes


def test_the_attacks_reach_what_they_attack() -> None:
    """A corpus that dies at its first byte tests nothing: each field is entered by one of them."""
    stopped = {
        result.error.rpartition(" ")[2]
        for value in avro_bombs(FAILURES)
        if isinstance(result := decode(FAILURES.name, value), Malformed)
    }
    assert len(stopped) > 20
    assert zigzag(-1) == b"\x01"
