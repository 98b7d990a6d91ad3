"""Operators' signatures, and the hash of what they decide on: Ed25519 and BLAKE2b-256, nothing to negotiate."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.records.base import WireEnum, epoch_ms
from schemas.records.failure import Checkpoint
from schemas.records.operator import OperatorAction, Pause
from schemas.records.result import Proposal

Signed = OperatorAction | Pause
T = TypeVar("T", OperatorAction, Pause)
_SIGNATURE: Final = "signature"
_KEY_BYTES: Final = 32
_FIELD: Final = 2**255 - 19
_ORDER_8: Final = int("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7", 16)
_SMALL_ORDER: Final = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})
"""The y of the points whose order divides the cofactor: under such a key anybody can sign, and OpenSSL takes it."""


def signed_bytes(record: Signed) -> bytes:
    """What the signature is over: the record's name, then name and value of each field that is not at its default.

    Every part is length-prefixed, so no two contents share an encoding. Defaults are left out, so that a field
    can be added later: an older signature stays good, and a release that does not know the field refuses what uses it.
    """
    parts = ["omium", record.type_name]
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        if name != _SIGNATURE and (field.is_required() or value != field.get_default()):
            parts += [name, _text(value)]
    return _prefixed(parts)


def _prefixed(parts: Iterable[str]) -> bytes:
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


def _text(value: Any) -> str:
    match value:
        case WireEnum() | str():
            return str(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case datetime():
            return str(epoch_ms(value))
        case None:
            return ""
        case _:
            raise TypeError(type(value).__name__)


def sign(record: T, key: Ed25519PrivateKey) -> T:
    """`record` with its signature."""
    return record.model_copy(update={_SIGNATURE: key.sign(signed_bytes(record))})


def is_signed_by(record: Signed, key: Ed25519PublicKey) -> bool:
    """Whether `record` is, in every field, what the holder of `key` signed."""
    try:
        key.verify(record.signature, signed_bytes(record))
    except InvalidSignature:
        return False
    return True


def public_key(text: str) -> Ed25519PublicKey:
    """The key in 44 characters of base64, as a policy file has it. Raises ValueError."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(data) != _KEY_BYTES:
        raise ValueError(f"{len(data)} bytes; an Ed25519 public key has {_KEY_BYTES}")
    if (int.from_bytes(data, "little") & (2**255 - 1)) % _FIELD in _SMALL_ORDER:
        raise ValueError("nobody's key: anybody can sign for it")
    return Ed25519PublicKey.from_public_bytes(data)


def public_text(key: Ed25519PublicKey) -> str:
    """`key` as a policy file has it."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def approval_hash(
    recovery_id: str, attempt: int, checkpoint: Checkpoint, proposals: Iterable[Proposal], *, unsafe_effects: bool
) -> str:
    """Of one question: which attempt, from where, and exactly what each answer would send. 64 hexadecimal digits."""
    parts = ["omium approval", recovery_id, str(attempt), "unsafe" if unsafe_effects else "safe"]
    # All of it: under the same id a run could save another state after it was shown.
    for said in (checkpoint.id, checkpoint.uri, checkpoint.sha256, checkpoint.size_bytes, checkpoint.data):
        parts += ["absent"] if said is None else ["present", str(said)]
    for proposal in proposals:
        parts += ["proposal", proposal.strategy, str(proposal.cost_microusd), str(len(proposal.modifications))]
        for change in proposal.modifications:
            parts += [change.kind, change.parameters]
    return blake2b(_prefixed(parts), digest_size=32).hexdigest()
