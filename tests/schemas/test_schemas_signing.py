"""A signature is over every field, and over nothing but the fields."""

from __future__ import annotations

import base64

import pytest
from any_record import records
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec, signing
from schemas.records import (
    ActionKind,
    Checkpoint,
    Modification,
    ModificationKind,
    OperatorAction,
    Pause,
    PauseScope,
    Proposal,
    Strategy,
    from_epoch_ms,
)
from schemas.topics import OPERATOR_ACTIONS, OPERATOR_PAUSES, Topic

ORDER_8 = int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little")
SAVED = Checkpoint(id="c")
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
NOW = from_epoch_ms(1_800_000_000_000)
ACTION = OperatorAction(
    tenant_id="acme", execution_id="run-1", recovery_id="r", attempt=1, approval_hash="a" * 64, kind=ActionKind.CHOOSE,
    proposal=2, strategy=Strategy.RETRY_ONCE, operator="ann", reason="ü", issued_at=NOW, expires_at=NOW, signature=b"",
)  # fmt: skip
PAUSE = Pause(scope=PauseScope.TOOL, target="crm", paused=True, operator="ann", issued_at=NOW, signature=b"")


@pytest.mark.parametrize(("topic", "record"), [(OPERATOR_ACTIONS, ACTION), (OPERATOR_PAUSES, PAUSE)])
def test_a_bit_flipped_anywhere_makes_it_another_record_or_none(topic: Topic, record: signing.Signed) -> None:
    signed = signing.sign(record, KEY)
    assert signing.is_signed_by(signed, KEY.public_key())
    value = codec.encode(topic, signed, source="test").value
    heard = 0
    for bit in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        decoded = codec.decode(topic.name, bytes(flipped))
        if isinstance(decoded, codec.Decoded) and signing.is_signed_by(decoded.record, KEY.public_key()):
            # Avro's true, written as 3, is still true: the same record in other bytes.
            assert decoded.record == signed
            heard += 1
    assert heard < 8


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_two_contents_are_never_signed_by_the_same_bytes(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([OperatorAction, Pause]))
    one = data.draw(records(kind))
    changes = data.draw(records(kind)).model_dump()
    name = data.draw(st.sampled_from(sorted(kind.model_fields)))
    other = kind.model_validate({**one.model_dump(), name: changes[name]})
    same = one.model_copy(update={"signature": b""}) == other.model_copy(update={"signature": b""})
    assert (signing.signed_bytes(one) == signing.signed_bytes(other)) == same


def test_a_value_that_looks_like_a_field_is_still_a_value() -> None:
    one = ACTION.model_copy(update={"execution_id": "yrecovery_idz", "recovery_id": "w"})
    other = ACTION.model_copy(update={"execution_id": "y", "recovery_id": "zrecovery_idw"})
    assert signing.signed_bytes(one) != signing.signed_bytes(other)


def test_an_action_is_no_pause_whatever_it_says() -> None:
    assert signing.signed_bytes(ACTION)[:40] != signing.signed_bytes(PAUSE)[:40]


def test_a_field_that_is_added_later_leaves_old_signatures_good() -> None:
    class Later(OperatorAction):
        added: str = ""

    signed = signing.sign(ACTION, KEY)
    fields = {name: getattr(signed, name) for name in OperatorAction.model_fields}
    assert signing.is_signed_by(Later(**fields), KEY.public_key())
    assert not signing.is_signed_by(Later(**fields, added="x"), KEY.public_key())


def test_a_key_as_text_is_read_back() -> None:
    public = KEY.public_key()
    assert signing.public_key(signing.public_text(public)) == public


@pytest.mark.parametrize("y", [0, 1, 2**255 - 20, ORDER_8, 2**255 - 19 - ORDER_8, 2**255 - 19, 2**255 - 18])
@pytest.mark.parametrize("sign", [0, 2**255])
def test_a_key_for_which_anybody_can_sign_is_nobodys(y: int, sign: int) -> None:
    """Zeros that somebody left in a policy file, for one: S = 0 and a small R verify for one message in a few."""
    with pytest.raises(ValueError, match="anybody"):
        signing.public_key(base64.b64encode((y | sign).to_bytes(32, "little")).decode())


@pytest.mark.parametrize(
    ("where", "question"),
    [
        ("recovery", ("r2", 1, SAVED)),
        ("attempt", ("r", 2, SAVED)),
        ("checkpoint", ("r", 1, Checkpoint(id="c2"))),
        ("its state", ("r", 1, Checkpoint(id="c", data="1"))),
        ("its address", ("r", 1, Checkpoint(id="c", uri="1"))),
        ("its digest", ("r", 1, Checkpoint(id="c", sha256="1"))),
        ("its size", ("r", 1, Checkpoint(id="c", size_bytes=1))),
        ("proposal", ("r", 1, SAVED)),
        ("safety", ("r", 1, SAVED)),
    ],
)
def test_the_hash_of_a_question_follows_all_of_it(where: str, question: tuple[str, int, Checkpoint]) -> None:
    shown = [Proposal(strategy=Strategy.RETRY_ONCE, confidence=0.5, modifications=())]
    asked = signing.approval_hash("r", 1, SAVED, shown, unsafe_effects=False)
    other = signing.approval_hash(
        *question, shown * 2 if where == "proposal" else shown, unsafe_effects=where == "safety"
    )
    assert asked != other


def test_the_hash_of_a_question_follows_what_each_answer_would_send() -> None:
    change = Modification(kind=ModificationKind.SET_RETRY, parameters='{"max_attempts":2}')
    shown = [
        Proposal(strategy=strategy, confidence=0.5, modifications=changes)
        for strategy in (Strategy.RETRY_ONCE, Strategy.EXPONENTIAL_BACKOFF)
        for changes in ((), (change,), (change, change), (change.model_copy(update={"parameters": "{}"}),))
    ]
    assert len({signing.approval_hash("r", 1, SAVED, [each], unsafe_effects=False) for each in shown}) == 8
