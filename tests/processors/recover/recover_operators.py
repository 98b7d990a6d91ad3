"""Operators with keys, and their answers to what a world asks."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from recover_world import World

from processors.recover.policy import Policies
from schemas import signing
from schemas.records import ActionKind, Escalation, OperatorAction, from_epoch_ms

KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")) for name in ("ann", "bob", "eve")}
OPERATORS = {
    "ann": {"public_key": signing.public_text(KEYS["ann"].public_key()), "tenants": ["*"]},
    "bob": {"public_key": signing.public_text(KEYS["bob"].public_key()), "tenants": ["zeta"]},
}
"""eve has a key that no policy knows."""


def policies(**default: Any) -> Policies:
    """A policy with operators; a person has an hour."""
    return Policies({"default": {"person_wait_s": 3600, **default}, "operators": OPERATORS})


def question(world: World) -> Escalation:
    """The newest that a person was asked."""
    asked: Escalation = world.records(Escalation)[-1]
    assert asked.attempt
    return asked


def answer(
    world: World, kind: str = "approve", proposal: int = 0, *, by: str = "ann", **changes: Any
) -> OperatorAction:
    """A signed answer to the newest question. `changes`: of the content, before it is signed."""
    asked = question(world)
    shown = asked.proposals[proposal].strategy if kind != "reject" and proposal < len(asked.proposals) else None
    return signing.sign(
        OperatorAction(
            **{
                "tenant_id": asked.tenant_id,
                "execution_id": asked.execution_id,
                "recovery_id": asked.recovery_id,
                "attempt": asked.attempt,
                "approval_hash": asked.approval_hash,
                "kind": ActionKind(kind),
                "proposal": proposal,
                "strategy": shown,
                "operator": by,
                "issued_at": from_epoch_ms(world.now),
                "expires_at": from_epoch_ms(world.now + 900_000),
                "signature": b"",
                **changes,
            }
        ),
        KEYS[by],
    )


def say(world: World, action: OperatorAction) -> str:
    """What became of `action`, read at once: kind and reason."""
    world.append(action)
    said = len(world.said)
    world.read_all()
    (told,) = [e.record for e in world.said[said:] if getattr(e.record, "subject", "") == "operator"]
    return f"{told.kind}: {told.reason}"
