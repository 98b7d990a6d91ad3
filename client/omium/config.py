"""What the Kafka clients are told, and what the environment tells us."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from omium.records import Agent

_log = logging.getLogger("omium.kafka")
_KAFKA_ENV: Final = {
    "OMIUM_SECURITY_PROTOCOL": "security_protocol",
    "OMIUM_SASL_MECHANISM": "sasl_mechanism",
    "OMIUM_SASL_USERNAME": "sasl_username",
    "OMIUM_SASL_PASSWORD": "sasl_password",
    "OMIUM_SSL_CA_FILE": "ssl_ca_location",
    "OMIUM_SSL_CERT_FILE": "ssl_certificate_location",
    "OMIUM_SSL_KEY_FILE": "ssl_key_location",
    "OMIUM_SSL_KEY_PASSWORD": "ssl_key_password",
}


def _common(bootstrap: str, kafka: Mapping[str, Any]) -> dict[str, Any]:
    given = {name if name.endswith("_cb") else name.replace("_", "."): value for name, value in kafka.items()}
    return {
        "bootstrap.servers": bootstrap,
        "client.id": "omium",
        # A broker that restarts is found again at once: a step waits two seconds only.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        # A broker that is gone would fill the agent's log, several lines a second: the inbox says it once a minute.
        "log_level": 2,
        "logger": _log,
        **given,
    }


def producer_config(bootstrap: str, kafka: Mapping[str, Any]) -> dict[str, Any]:
    """A producer that neither loses nor repeats, and agrees with every other language on the partition."""
    return _common(bootstrap, kafka) | {
        "enable.idempotence": True,
        "linger.ms": 0,
        # librdkafka's own default is another hash: one execution would have two writers.
        "partitioner": "murmur2_random",
        "message.max.bytes": 1_000_000,
        # A topic's max.message.bytes bounds the batch: the broker refuses all records of a larger one.
        "batch.size": 48 * 1024,
    }


def consumer_config(bootstrap: str, kafka: Mapping[str, Any]) -> dict[str, Any]:
    """A consumer of committed records, without a group of its own."""
    return _common(bootstrap, kafka) | {
        # Required by the client; no group is joined and nothing committed under it.
        "group.id": "omium-in-place",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "latest",
        "fetch.wait.max.ms": 100,
        "allow.auto.create.topics": False,
    }


def from_env(environ: Mapping[str, str], agent: Agent | None) -> dict[str, Any]:
    """Arguments of `Omium` by the environment. Raises KeyError where OMIUM_TENANT_ID is missing."""
    options: dict[str, Any] = {
        "bootstrap": environ.get("OMIUM_BOOTSTRAP", "127.0.0.1:9092"),
        "tenant_id": environ["OMIUM_TENANT_ID"],
        "agent": agent or Agent(id=environ.get("OMIUM_AGENT_ID")),
        "environment": environ.get("OMIUM_ENVIRONMENT"),
    }
    if "OMIUM_WAIT_S" in environ:
        options["wait_s"] = float(environ["OMIUM_WAIT_S"])
    return options | {name: environ[variable] for variable, name in _KAFKA_ENV.items() if variable in environ}
