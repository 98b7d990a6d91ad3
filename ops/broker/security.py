"""TLS and SASL of a local broker's client listener."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

_SCRAM: Final = "SCRAM-SHA-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """What clients must speak. The nodes talk plaintext to each other, on ports of their own."""

    tls_pem: Path | None = None
    """PEM file with the private key (PKCS #8) and then the certificate chain of the broker; None: no TLS."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """None: no SASL."""
    users: dict[str, str] = field(default_factory=dict, repr=False)
    """Password by name."""

    @property
    def protocol(self) -> str:
        return ("SASL_" if self.mechanism else "") + ("SSL" if self.tls_pem else "PLAINTEXT")

    def properties(self, listener: str) -> dict[str, str]:
        """Server properties of `listener`."""
        prefix = f"listener.name.{listener.lower()}."
        found: dict[str, str] = {}
        if self.tls_pem:
            found |= {f"{prefix}ssl.keystore.type": "PEM", f"{prefix}ssl.keystore.location": str(self.tls_pem)}
        if self.mechanism:
            module = "scram.ScramLoginModule" if self.mechanism.startswith(_SCRAM) else "plain.PlainLoginModule"
            users = "" if self.mechanism.startswith(_SCRAM) else _quoted(self.users)
            found["sasl.enabled.mechanisms"] = self.mechanism
            found[f"{prefix}{self.mechanism.lower()}.sasl.jaas.config"] = (
                f"org.apache.kafka.common.security.{module} required{users};"
            )
        return found

    def format_options(self) -> tuple[str, ...]:
        """Options of `kafka-storage format`: SCRAM credentials live in the cluster's metadata."""
        if not self.mechanism or not self.mechanism.startswith(_SCRAM):
            return ()
        return tuple(
            option
            for name, password in self.users.items()
            for option in ("--add-scram", f"{self.mechanism}=[name={name},password={password}]")
        )


def _quoted(users: dict[str, str]) -> str:
    return "".join(f' user_{name}="{password}"' for name, password in users.items())
