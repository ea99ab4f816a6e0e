"""The hash that turns names into keys, held against what PostgreSQL answered once and for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock._hash import hashtext, hashtextextended

GOLDEN = json.loads(Path(__file__).with_name("golden_keys.json").read_text(encoding="utf-8"))
CODECS = {"UTF8": "utf-8", "LATIN1": "iso8859-1"}
VECTORS = [(codec, *row) for server, codec in CODECS.items() for row in GOLDEN[server]]


def test_the_golden_vectors_cover_every_tail_length_and_the_seeds() -> None:
    """A frozen file is worth what it covers: every tail, long names, both halves of a seed."""
    lengths = {len(name.encode()) for name, *_ in GOLDEN["UTF8"]}
    assert lengths >= {*range(14), 1000, 1001}
    seeds = {seed for _, seed, *_ in GOLDEN["UTF8"]}
    assert seeds >= {0, -1, 2**32, 2**63 - 1, -(2**63)}


@pytest.mark.parametrize(
    ("codec", "name", "seed", "small", "big"), VECTORS, ids=range(len(VECTORS))
)
def test_golden_vectors(codec: str, name: str, seed: int, small: int, big: int) -> None:
    """A key never changes, whatever happens to this code: another client may be holding it."""
    data = name.encode(codec)
    assert hashtext(data) == small
    assert hashtextextended(data, seed) == big


def test_the_known_collision_of_32_bits_is_none_in_64() -> None:
    """Two job names share a 32-bit key, which is why 64 bits are the default."""
    assert hashtext(b"job:11352") == hashtext(b"job:189279") == 3417513
    assert hashtextextended(b"job:11352") != hashtextextended(b"job:189279")


@given(st.binary(max_size=64), st.integers(-(2**63), 2**63 - 1))
def test_answers_are_signed_and_of_the_right_width(data: bytes, seed: int) -> None:
    """Every answer fits the SQL type that the server's function returns."""
    assert -(2**31) <= hashtext(data) < 2**31
    assert -(2**63) <= hashtextextended(data, seed) < 2**63


@given(st.binary(max_size=64))
def test_the_low_half_of_the_64_bits_is_the_32_bit_hash(data: bytes) -> None:
    """The server documents no such thing, but has it so; a slip in either function shows here."""
    assert (hashtextextended(data) - hashtext(data)) % 2**32 == 0
