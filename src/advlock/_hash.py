"""PostgreSQL's `hashtext` and `hashtextextended`, without asking the server.

Jenkins' lookup3 as `hash_bytes` and `hash_bytes_extended` have it (src/common/hashfn.c), on a
little-endian server. `tests/unit/golden_keys.json` freezes what the real one answers.

Only what the next rotation needs is cut back to 32 bits: an addition may run over, because every
sum passes a masked subtraction before its high bits could be seen.
"""

from __future__ import annotations

from struct import Struct

_MASK = 0xFFFFFFFF
_BLOCK = Struct("<3I")
# lookup3's golden ratio plus PostgreSQL's own initval, 3923095.
_START = 0x9E3779B9 + 3923095


def hashtext(data: bytes) -> int:
    """Return what `hashtext()` returns for a text with these bytes.

    Args:
        data: The text in the server's encoding.

    Returns:
        A signed 32-bit integer.
    """
    _, low = _lookup3(data, 0)
    return low - ((low & 0x80000000) << 1)


def hashtextextended(data: bytes, seed: int = 0) -> int:
    """Return what `hashtextextended()` returns for a text with these bytes.

    Args:
        data: The text in the server's encoding.
        seed: A signed 64-bit integer; with 0, the low half of the answer equals `hashtext(data)`.

    Returns:
        A signed 64-bit integer.
    """
    high, low = _lookup3(data, seed)
    return (high - ((high & 0x80000000) << 1)) << 32 | low


def _lookup3(data: bytes, seed: int) -> tuple[int, int]:
    a = b = c = (_START + len(data)) & _MASK
    if seed:
        a, b, c = _mix(a + (seed >> 32 & _MASK), b + (seed & _MASK), c)
    tail = len(data) % 12
    whole = len(data) - tail
    for x, y, z in _BLOCK.iter_unpack(data[:whole]):
        a, b, c = _mix(a + x, b + y, (c + z) & _MASK)
    # The lowest byte of the last word is reserved: the length went there, so the tail skips it.
    rest = data[whole:]
    x, y, z = _BLOCK.unpack(rest[:8].ljust(8, b"\0") + (b"\0" + rest[8:]).ljust(4, b"\0"))
    return _final(a + x, (b + y) & _MASK, c + z)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = ((a - c) ^ (c << 4 | c >> 28)) & _MASK
    c += b
    b = ((b - a) ^ (a << 6 | a >> 26)) & _MASK
    a += c
    c = ((c - b) ^ (b << 8 | b >> 24)) & _MASK
    b += a
    a = ((a - c) ^ (c << 16 | c >> 16)) & _MASK
    c += b
    b = ((b - a) ^ (a << 19 | a >> 13)) & _MASK
    a += c
    c = ((c - b) ^ (b << 4 | b >> 28)) & _MASK
    b += a
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int]:
    c = ((c ^ b) - (b << 14 | b >> 18)) & _MASK
    a = ((a ^ c) - (c << 11 | c >> 21)) & _MASK
    b = ((b ^ a) - (a << 25 | a >> 7)) & _MASK
    c = ((c ^ b) - (b << 16 | b >> 16)) & _MASK
    a = ((a ^ c) - (c << 4 | c >> 28)) & _MASK
    b = ((b ^ a) - (a << 14 | a >> 18)) & _MASK
    c = ((c ^ b) - (b << 24 | b >> 8)) & _MASK
    return b, c
