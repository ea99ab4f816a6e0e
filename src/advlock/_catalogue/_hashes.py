"""The hash functions by which other tools make keys of names. Pure.

Each returns the number as the tool gives it to PostgreSQL, signed where it does so. Which bytes go
in is the caller's business: most tools hash UTF-8, whatever the server's encoding is.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from typing import Final, Literal

_WORD: Final = 0xFFFFFFFF
_LONG: Final = 0xFFFFFFFFFFFFFFFF
_FNV32: Final = (
    0x811C9DC5,
    0x01000193,
)  # offset basis and prime, http://www.isthe.com/chongo/tech/comp/fnv
_FNV64: Final = (0xCBF29CE484222325, 0x100000001B3)
_DOTNET_START: Final = ((5381 << 16) + 5381) & _WORD
_DOTNET_FACTOR: Final = 1566083941


def signed32(number: int) -> int:
    """Take the low 32 bits for a signed integer."""
    number &= _WORD
    return number - ((number & 0x80000000) << 1)


def signed64(number: int) -> int:
    """Take the low 64 bits for a signed integer."""
    number &= _LONG
    return number - ((number & 1 << 63) << 1)


def crc32(data: bytes) -> int:
    """Return the CRC-32 of IEEE 802.3, unsigned, as Ruby, PHP, Go and Rust tools use it."""
    return zlib.crc32(data)


def fnv1_32(data: bytes) -> int:
    """Return 32-bit FNV-1, unsigned (Go's `fnv.New32`)."""
    number, prime = _FNV32
    for byte in data:
        number = number * prime & _WORD ^ byte
    return number


def fnv1_64(data: bytes) -> int:
    """Return 64-bit FNV-1, signed (Go's `int64` of `fnv.New64`)."""
    number, prime = _FNV64
    for byte in data:
        number = number * prime & _LONG ^ byte
    return signed64(number)


def fnv1a_64(data: bytes) -> int:
    """Return 64-bit FNV-1a, signed (Go's `int64` of `fnv.New64a`)."""
    number, prime = _FNV64
    for byte in data:
        number = (number ^ byte) * prime & _LONG
    return signed64(number)


def java(text: str) -> int:
    """Return Java's `String.hashCode()`, which Java promises never to change."""
    number = 0
    for unit in _utf16(text):
        number = number * 31 + unit & _WORD
    return signed32(number)


def dotnet(text: str) -> int:
    """Return JasperFx's `GetDeterministicHashCode()`, which is the hash of old .NET Frameworks."""
    one = two = _DOTNET_START
    units = _utf16(text)
    for even in range(0, len(units), 2):
        one = (one * 33 & _WORD) ^ units[even]
        if even + 1 < len(units):
            two = (two * 33 & _WORD) ^ units[even + 1]
    return signed32(one + two * _DOTNET_FACTOR)


def digest(
    name: Literal["md5", "sha1", "sha224", "sha256"],
    data: bytes,
    order: Literal["big", "little"],
) -> int:
    """Return the first eight bytes of a digest as a signed integer.

    Args:
        name: Which digest.
        data: What to digest.
        order: In which order those eight bytes are read.
    """
    head = hashlib.new(name, data, usedforsecurity=False).digest()[:8]
    return int.from_bytes(head, order, signed=True)


def hkdf_sha256(data: bytes, info: bytes) -> int:
    """Return the first eight bytes of HKDF-SHA256 without salt, little-endian (RFC 5869)."""
    secret = hmac.digest(bytes(32), data, "sha256")
    return int.from_bytes(hmac.digest(secret, info + b"\x01", "sha256")[:8], "little", signed=True)


def _utf16(text: str) -> memoryview:
    # Java and .NET hash UTF-16 units, of which a character beyond the first 65 536 has two.
    return memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")
