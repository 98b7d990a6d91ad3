"""Our own Avro is fastavro's: the same bytes are written, and what it dares to read it reads as fastavro does."""

from __future__ import annotations

import io

import fastavro
import pytest
from any_record import events
from hypothesis import given, settings
from hypothesis import strategies as st
from poison import CARRIERS, corpus, zigzag

from schemas import codec
from schemas.codec import Decoded, decode, to_avro
from schemas.records import Checkpoint, Event, FailureEvent, Metrics
from schemas.topics import FAILURES, Topic


def _by_fastavro(record: Event) -> bytes:
    version = codec._newest()[type(record)]
    out = io.BytesIO()
    # Our lists are tuples, which fastavro would take for (branch of the union, value).
    fastavro.schemaless_writer(out, version.writer, record.model_dump(by_alias=True), disable_tuple_notation=True)
    return codec._MAGIC + version.fingerprint + out.getvalue()


def _by_the_slow_way(topic: Topic, value: bytes) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_compiled", lambda _: (_refuse, _refuse))
        return decode(topic.name, value)


def _refuse(*_: object) -> None:
    raise ValueError


@pytest.mark.parametrize("topic", CARRIERS, ids=lambda topic: topic.name)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_same_bytes_are_written(topic: Topic, data: st.DataObject) -> None:
    assert topic.record is not None
    record = data.draw(events(topic.record))
    assert to_avro(record) == _by_fastavro(record)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), topic=st.sampled_from(CARRIERS))
def test_bytes_gone_wrong_are_judged_as_fastavro_judges_them(data: st.DataObject, topic: Topic) -> None:
    """A changed length, branch or count must not pass here for another record than there."""
    assert topic.record is not None
    whole = bytearray(to_avro(data.draw(events(topic.record))))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(10, len(whole) - 1))] = data.draw(st.integers(0, 255))
    value = bytes(whole)
    assert decode(topic.name, value) == _by_the_slow_way(topic, value)


@pytest.mark.parametrize("topic", CARRIERS, ids=lambda topic: topic.name)
def test_attacks_are_judged_as_fastavro_judges_them(topic: Topic) -> None:
    for value in corpus(topic):
        if value is not None and len(value) < 1000:
            assert decode(topic.name, value) == _by_the_slow_way(topic, value)


@pytest.mark.parametrize("form", ["long zero", "blocks", "sized block"])
def test_what_only_others_write_is_read_too(form: str) -> None:
    """Avro allows longer forms of a number, and lists in several blocks: a client in another language may use them."""
    record = FailureEvent(
        tenant_id="t", execution_id="e", required_steps=("a", "b"), checkpoint=Checkpoint(id="c"), metrics=Metrics()
    )
    plain = to_avro(record)
    steps = zigzag(2) + b"\x02a\x02b\x00"
    assert plain.count(steps) == 1
    other = {
        "long zero": plain.replace(steps, zigzag(2) + b"\x02a\x02b\x80\x00"),
        "blocks": plain.replace(steps, zigzag(1) + b"\x02a" + zigzag(1) + b"\x02b\x00"),
        "sized block": plain.replace(steps, zigzag(-2) + zigzag(4) + b"\x02a\x02b\x00"),
    }[form]
    assert decode(FAILURES.name, other) == Decoded(record, "avro", ())


@pytest.mark.parametrize("topic", CARRIERS, ids=lambda topic: topic.name)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_what_we_write_needs_no_second_look(topic: Topic, data: st.DataObject) -> None:
    """The quick way is taken, not always given up."""
    assert topic.record is not None
    record = data.draw(events(topic.record))
    document = codec._compiled(topic.record)[0](to_avro(record), codec._DATUM)
    assert topic.record.model_validate(document) == record


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 8191, 8192, 8193, 100_000])
def test_lengths_of_every_size(size: int) -> None:
    """One byte, two, or more: each has a way of its own."""
    steps, metrics = ("x",) * min(size, 9000), Metrics(tokens=size)
    record = FailureEvent(tenant_id="t", execution_id="e", step="é" * size, required_steps=steps, metrics=metrics)
    assert to_avro(record) == _by_fastavro(record)
    assert FailureEvent.model_validate(codec._compiled(FailureEvent)[0](to_avro(record), codec._DATUM)) == record


def test_a_number_that_is_no_long_is_not_written() -> None:
    """Cut to 64 bits it would be read as another one."""
    failure = FailureEvent(tenant_id="t", execution_id="e", metrics=Metrics(tokens=1))
    assert failure.metrics
    huge = failure.model_copy(update={"metrics": failure.metrics.model_copy(update={"tokens": 2**63})})
    with pytest.raises(OverflowError):
        to_avro(huge)
