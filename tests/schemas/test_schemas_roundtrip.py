"""What is written is what is read, in both encodings, whatever the record holds."""

from __future__ import annotations

import orjson
import pytest
from any_record import events
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Decoded, decode, encode, to_avro, to_json
from schemas.records import Event
from schemas.topics import AUDITED, TOPICS, Topic

_CARRIERS = [topic for topic in TOPICS if topic.record is not None]
_BY_RECORD = {topic.record: topic for topic in _CARRIERS}


@pytest.mark.parametrize("topic", _BY_RECORD.values(), ids=lambda topic: topic.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_both_encodings_give_the_record_back(topic: Topic, data: st.DataObject) -> None:
    assert topic.record is not None
    record = data.draw(events(topic.record))
    assert decode(topic.name, to_avro(record)) == Decoded(record, "avro", ())
    assert decode(topic.name, to_json(record)) == Decoded(record, "json", ())


@settings(max_examples=30, deadline=None)
@given(data=st.data(), topic=st.sampled_from(_CARRIERS), trace=st.binary(min_size=1, max_size=60))
def test_a_message_carries_its_identity_and_its_trace(data: st.DataObject, topic: Topic, trace: bytes) -> None:
    assert topic.record is not None
    record: Event = data.draw(events(topic.record))
    message = encode(topic, record, source="test", trace=[("traceparent", trace)])
    headers = dict(message.headers)
    assert (message.topic, message.key) == (topic.name, record.key.encode())
    assert headers["ce_id"] == record.event_id.encode()
    assert headers["ce_type"] == b"dev.omium." + record.type_name.encode()
    assert decode(topic.name, message.value, message.headers) == Decoded(record, "avro", (("traceparent", trace),))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), topic=st.sampled_from(_CARRIERS))
def test_a_field_of_a_newer_producer_is_ignored(data: st.DataObject, topic: Topic) -> None:
    assert topic.record is not None
    record = data.draw(events(topic.record))
    document = orjson.loads(to_json(record)) | {"a_field_of_tomorrow": [1, {}]}
    assert decode(topic.name, orjson.dumps(document)) == Decoded(record, "json", ())


def test_a_record_goes_to_its_own_topic_only() -> None:
    outcome, failure = (next(t for t in TOPICS if t.name == f"agent.{n}.v1") for n in ("outcomes", "failures"))
    assert failure.record is not None
    with pytest.raises(TypeError, match=r"agent\.outcomes\.v1"):
        encode(outcome, failure.record.model_validate({"tenant_id": "t", "execution_id": "e"}), source="test")


def test_every_topic_of_the_contract_is_mapped() -> None:
    """Names are unique and versioned, what is audited can be decoded, compacted is what has no retention."""
    names = [topic.name for topic in TOPICS]
    assert len(set(names)) == len(names)
    assert all(name.startswith(("agent.", "operator.", "recovery.")) and name.endswith(".v1") for name in names)
    assert all(topic.record is not None for topic in AUDITED)
    for topic in TOPICS:
        assert topic.compacted == (topic.config["cleanup.policy"] == "compact")
        assert topic.config["message.timestamp.type"] == "LogAppendTime"
        # A zstd batch of 13 KB can hold 300 MB: the broker must unpack what strangers send.
        assert topic.from_agents == (topic.config.get("compression.type") == "uncompressed")
