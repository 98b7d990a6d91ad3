"""Every Kafka client of the product over TLS and SASL: the workers as they are deployed, and an agent."""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from omium import Agent, Omium

from ops.broker import Broker, Security
from ops.runtime import topics
from ops.runtime.child import Child
from ops.runtime.settings import Settings
from processors.audit.store import UNAVAILABLE, reader

pytestmark = pytest.mark.integration
_PASSWORD = "correct horse"


@dataclass(frozen=True)
class Certificates:
    """Of a broker on loopback, signed by an authority that no system knows."""

    ca: Path
    broker: Path


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])

    def certificate(name: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    ca = certificate(ca_name, ca_key.public_key(), ca=True)
    broker_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    broker = certificate(broker_name, key.public_key(), ca=False)
    found = Certificates(ca=folder / "ca.pem", broker=folder / "broker.pem")
    found.ca.write_bytes(ca.public_bytes(pem))
    found.broker.write_bytes(_pem_key(key) + broker.public_bytes(pem))
    return found


@pytest.fixture(scope="module")
def secured(certificates: Certificates) -> Iterator[Settings]:
    """Settings for a broker that speaks nothing but SASL_SSL to clients."""
    security = Security(tls_pem=certificates.broker, mechanism="SCRAM-SHA-512", users={"omium": _PASSWORD})
    with Broker(security=security) as broker:
        yield Settings(
            bootstrap=broker.bootstrap,
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username="omium",
            sasl_password=_PASSWORD,  # type: ignore[arg-type]
            ssl_ca_file=certificates.ca,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"sasl_password": "wrong"}, id="password"),
        pytest.param({"ssl_ca_file": None}, id="authority"),
        pytest.param({"security_protocol": "SASL_PLAINTEXT"}, id="no-tls"),
    ],
)
def test_nobody_else_gets_in(secured: Settings, wrong: dict[str, str | None]) -> None:
    """Without this the test below could pass over a listener that asks for nothing."""
    given = secured.model_dump() | {"sasl_password": _PASSWORD} | wrong
    with pytest.raises(KafkaException):
        topics.list_topics(Settings(**given), timeout_s=2)


def test_an_agent_is_resumed_and_audited(
    secured: Settings, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    """Producers and consumers of streams (aiokafka's and librdkafka's), recover, audit, the client, and the tools."""
    database = f"chdb://{tmp_path / 'audit'}"
    environment = {
        "OMIUM_BOOTSTRAP": secured.bootstrap,
        "OMIUM_SECURITY_PROTOCOL": "SASL_SSL",
        "OMIUM_SASL_MECHANISM": "SCRAM-SHA-512",
        "OMIUM_SASL_USERNAME": "omium",
        "OMIUM_SASL_PASSWORD": _PASSWORD,
        "OMIUM_SSL_CA_FILE": str(secured.ssl_ca_file),
        "OMIUM_CLICKHOUSE": database,
        "OMIUM_AUDIT_BATCH_S": "0.2",
    }
    log = tmp_path / "workers.log"
    workers = Child([sys.executable, "-m", "cli.main", "worker", "all"], log=log, env=os.environ | environment)
    agent = Agent(id="loan", capabilities=("append_prompt",))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("OMIUM_TENANT_ID", "acme")
        client = Omium.from_env(agent, wait_s=60.0)
    seen: list[str] = []

    @client.step("apr", constraints={"apr": {"type": "range", "min": 2.5, "max": 8.5}})
    def propose(mods: object = None) -> dict[str, float]:
        from omium import current

        prompt = current().prompt("You are a loan officer.")
        seen.append(prompt)
        return {"apr": 5.0 if "2.5" in prompt else 0.0}

    try:
        assert propose() == {"apr": 5.0}, log.read_text()
        assert len(seen) == 2
        assert client.flush(30)
        eventually(lambda: _recovered(database))
        assert workers.stop(60) == 0
    finally:
        client.close()
        workers.kill()
    assert "Traceback" not in log.read_text()


def _recovered(database: str) -> bool:
    try:
        with reader(database) as client:
            rows = client.query("SELECT result_success FROM recovery_audit").result_rows
    except UNAVAILABLE:  # the audit worker has not opened it yet, or not made its views
        return False
    return [bool(success) for (success,) in rows] == [True]
