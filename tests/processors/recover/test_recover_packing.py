"""A state's bytes: small, the same again, and nothing else is taken for them."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.recover.packing import _COMMON, packed, unpacked


@given(st.binary(max_size=20_000))
def test_what_was_packed_is_unpacked(body: bytes) -> None:
    assert unpacked(packed(body)) == body


@given(st.binary(max_size=200))
def test_what_is_no_state_is_a_value_error(data: bytes) -> None:
    try:
        unpacked(data)
    except ValueError:
        return


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_state_that_is_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="state"):
        unpacked(packed(b'{"tenant_id":"acme"}')[:-cut])


def test_a_bomb_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        unpacked(packed(b"x" * (64 * 1024 * 1024 + 1)))


def test_the_dictionary_stays() -> None:
    """States of the changelog were packed with it: with another one they cannot be read."""
    assert zlib.crc32(_COMMON) == 0xEF10439D
