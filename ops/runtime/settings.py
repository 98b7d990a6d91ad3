"""Settings of every process: environment (`OMIUM_`), `.env`, `omium.toml`, in that order of precedence."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ops.runtime.kafka_errors import CLIENT_CONFIG
from schemas.topics import DEFAULT_PARTITIONS

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class Settings(BaseSettings):
    """Nested nothing: each field is one environment variable, `OMIUM_BOOTSTRAP` and so on."""

    model_config = SettingsConfigDict(
        env_prefix="OMIUM_",
        env_file=".env",
        toml_file="omium.toml",
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    app: str = "omium"
    """Prefix of consumer groups, transactional ids and Faust's changelog."""
    bootstrap: str = "127.0.0.1:9092"
    """Kafka brokers, host:port, comma separated."""
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_file: Path | None = None
    """PEM file of the authorities that sign the brokers' certificates; absent: the system's."""
    ssl_cert_file: Path | None = None
    ssl_key_file: Path | None = None
    ssl_key_password: SecretStr | None = None

    partitions: int = Field(default=DEFAULT_PARTITIONS, ge=1, le=512)
    """Partitions of every topic; fixed when the topics are created."""
    replication: int = Field(default=1, ge=1, le=7)

    read_ahead_mb: int = Field(default=128, ge=1)
    """Of each partition a worker reads so much ahead, so that a flood is in nobody's way; beyond it, it is."""

    clickhouse: str = "http://127.0.0.1:8123/default"
    """http(s)://user:password@host:port/database, or chdb:///absolute/path for the embedded engine."""
    audit_batch_rows: int = Field(default=10_000, ge=1)
    audit_batch_s: float = Field(default=1.0, gt=0)
    audit_stop_s: float = Field(default=20.0, gt=0)
    """How long a stop of the audit worker may wait for ClickHouse; below the 30 s after which it would be killed."""

    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of /metrics, /healthz and /readyz; 0: any free one, printed at start."""
    policy_file: Path | None = None
    """TOML of recovery policy; absent: the one that ships with the product."""
    catalogue_file: Path | None = None
    """TOML of models, prices, rubrics and fallbacks; absent: the one that ships with the product."""
    rules_file: Path | None = None
    """TOML of classification rules that are added to those that ship with the product."""
    verifier: str | None = None
    """`module:attribute` of a `streams.decide.Verifier`, or of what makes one, that judges claims no fact decides."""
    verifier_timeout_s: float = Field(default=2.0, gt=0, le=60)
    """How long a failure waits for its verifier; then it is decided without."""
    verifier_concurrency: int = Field(default=8, ge=1)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def read_ahead_bytes(self) -> int:
        return self.read_ahead_mb * 1024 * 1024

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the base class fixes the signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)

    def kafka(self, **extra: Any) -> dict[str, Any]:
        """Configuration of any librdkafka client: addresses, TLS and SASL, then `extra`."""
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.security_protocol.lower(),
            **CLIENT_CONFIG,
        }
        optional = {
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": _secret(self.sasl_password),
            "ssl.ca.location": _path(self.ssl_ca_file),
            "ssl.certificate.location": _path(self.ssl_cert_file),
            "ssl.key.location": _path(self.ssl_key_file),
            "ssl.key.password": _secret(self.ssl_key_password),
        }
        config.update({name: value for name, value in optional.items() if value is not None})
        config.update(extra)
        return config

    def producer(self, **extra: Any) -> dict[str, Any]:
        """Configuration of a librdkafka producer whose records survive, and hash as Java's do."""
        return self.kafka(
            **{
                "acks": "all",
                "enable.idempotence": True,
                # librdkafka's default agrees with Java, Node and aiokafka on 15 of 200 keys.
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                # A topic's max.message.bytes bounds the batch, and the broker refuses all records of one that is
                # larger. The smallest of them is 64 KiB, an agents' topic's.
                "batch.size": 48 * 1024,
                # Transactions otherwise wait 100 ms for the coordinator's CONCURRENT_TRANSACTIONS to pass.
                "retry.backoff.ms": 2,
                "retry.backoff.max.ms": 10,
                "message.max.bytes": 2_000_000,
                **extra,
            }
        )

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context for Faust's client, or None where the brokers speak plaintext."""
        if "SSL" not in self.security_protocol.split("_"):
            return None
        context = ssl.create_default_context(cafile=_path(self.ssl_ca_file))
        if self.ssl_cert_file:
            context.load_cert_chain(self.ssl_cert_file, self.ssl_key_file, _secret(self.ssl_key_password))
        return context


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _path(value: Path | None) -> str | None:
    return None if value is None else str(value)
