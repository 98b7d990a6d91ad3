"""What a delivery report really says."""

from __future__ import annotations

from confluent_kafka import KafkaError, Message


def delivery_error(error: KafkaError | None, message: Message) -> KafkaError | None:
    """Why the record may not be in its log, or None where it is.

    "Delivered" at no offset means that the broker called the batch a duplicate. Where a leader has just changed, a
    new producer's first batch can be refused, its second taken, and the first one's repeat be answered so: librdkafka
    reports success, and the record stands in no log (seen with librdkafka 2.16 on Kafka 4.4, in the first second
    after a topic was made).
    """
    if error is None and message.offset() is None:
        return KafkaError(KafkaError._FAIL, "delivered without an offset")
    return error
