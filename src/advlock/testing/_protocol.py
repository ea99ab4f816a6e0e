"""PostgreSQL's protocol, version 3, as far as a server of locks speaks it. Pure.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION: Final = 196_608  # 3.0
CANCEL: Final = 80_877_102
ENCRYPTION: Final = (80_877_103, 80_877_104)  # TLS, GSSAPI
NO: Final = b"N"

BOOL: Final = 16
INT8: Final = 20
INT4: Final = 23
TEXT: Final = 25
FLOAT8: Final = 701
VOID: Final = 2278

_LENGTH: Final = struct.Struct(">I")
_INT4: Final = struct.Struct(">i")
_INT2: Final = struct.Struct(">h")
_BINARY: Final = {BOOL: ">?", INT4: ">i", INT8: ">q", FLOAT8: ">d"}
_HEAD: Final = 5  # a letter and a length

Value = str | int | float | bool | None
Rows = list[tuple[Value, ...]]


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """An error that the server answers with."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


class Message(NamedTuple):
    """What a client says: a letter, and what belongs to it."""

    kind: str
    body: bytes


class Hello(NamedTuple):
    """The first words of a connection."""

    code: int
    body: bytes

    @property
    def parameters(self) -> dict[str, str]:
        """What the client wants of its session."""
        words = [word.decode() for word in self.body.split(b"\0")]
        return {key: value for key, value in zip(words[::2], words[1::2], strict=False) if key}

    @property
    def whom(self) -> tuple[int, int]:
        """Whose query is to be cancelled: its process, and its secret."""
        return _INT4.unpack_from(self.body)[0], _INT4.unpack_from(self.body, 4)[0]


class Reader:
    """Reads one message from its beginning to its end."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def text(self) -> str:
        """Read a string."""
        end = self._body.index(b"\0", self._at)
        text = self._body[self._at : end].decode()
        self._at = end + 1
        return text

    def int2(self) -> int:
        """Read a small number."""
        self._at += 2
        number: int = _INT2.unpack_from(self._body, self._at - 2)[0]
        return number

    def int4(self) -> int:
        """Read a number."""
        self._at += 4
        number: int = _INT4.unpack_from(self._body, self._at - 4)[0]
        return number

    def bytes(self, length: int) -> bytes:
        """Read so many bytes."""
        self._at += length
        return self._body[self._at - length : self._at]

    def formats(self) -> list[int]:
        """Read how values are written."""
        return [self.int2() for _ in range(self.int2())]


class Bind(NamedTuple):
    """A statement with its values, each with its format."""

    portal: str
    statement: str
    values: tuple[tuple[bytes, int] | None, ...]
    formats: list[int]

    def texts(self, types: Sequence[int]) -> tuple[str | None, ...]:
        """Return the values as text; what is written in binary is a string or an integer."""
        found: list[str | None] = []
        for number, value in enumerate(self.values):
            if value is None:
                found.append(None)
                continue
            data, binary = value
            # A string looks the same in both formats, and asyncpg calls it binary.
            is_text = not binary or types[number : number + 1] == (TEXT,)
            found.append(data.decode() if is_text else str(int.from_bytes(data, signed=True)))
        return tuple(found)


def hello(buffer: bytearray) -> Hello | None:
    """Take the first words off, if they are there as a whole."""
    if len(buffer) < 2 * _LENGTH.size or len(buffer) < (length := _LENGTH.unpack_from(buffer)[0]):
        return None
    code = _LENGTH.unpack_from(buffer, _LENGTH.size)[0]
    body = bytes(buffer[2 * _LENGTH.size : length])
    del buffer[:length]
    return Hello(code, body)


def next_message(buffer: bytearray) -> Message | None:
    """Take one message off, if it is there as a whole."""
    if len(buffer) < _HEAD or len(buffer) <= (length := _LENGTH.unpack_from(buffer, 1)[0]):
        return None
    message = Message(chr(buffer[0]), bytes(buffer[_HEAD : length + 1]))
    del buffer[: length + 1]
    return message


def read_bind(body: bytes) -> Bind:
    """Read a Bind."""
    reader = Reader(body)
    portal, statement = reader.text(), reader.text()
    formats = reader.formats()
    values: list[tuple[bytes, int] | None] = []
    for number in range(reader.int2()):
        length = reader.int4()
        values.append(None if length < 0 else (reader.bytes(length), _format(formats, number)))
    return Bind(portal, statement, tuple(values), reader.formats())


# -- what the server says --------------------------------------------------------------------------


def message(kind: str, body: bytes = b"") -> bytes:
    """Make a message."""
    return kind.encode() + _LENGTH.pack(len(body) + _LENGTH.size) + body


def welcome(parameters: Mapping[str, str], pid: int, secret: int) -> bytes:
    """Let a client in."""
    reports = [message("S", f"{name}\0{value}\0".encode()) for name, value in parameters.items()]
    key = message("K", _INT4.pack(pid) + _INT4.pack(secret))
    return b"".join([message("R", _INT4.pack(0)), *reports, key])


def negotiate(options: Sequence[str]) -> bytes:
    """Say that nothing newer than 3.0 is spoken here."""
    words = b"".join(f"{option}\0".encode() for option in options)
    return message("v", _INT4.pack(VERSION) + _INT4.pack(len(options)) + words)


def report(name: str, value: str) -> bytes:
    """Tell of a setting that has changed."""
    return message("S", f"{name}\0{value}\0".encode())


def ready(status: str) -> bytes:
    """Say that it is the client's turn; `status` is I, T or E."""
    return message("Z", status.encode())


def parameters(types: Sequence[int]) -> bytes:
    """Describe what a statement takes."""
    return message("t", _INT2.pack(len(types)) + b"".join(map(_LENGTH.pack, types)))


def columns(types: Sequence[int], formats: Sequence[int] = (), names: Sequence[str] = ()) -> bytes:
    """Describe what a statement answers."""
    if not types:
        return message("n")
    parts = [_INT2.pack(len(types))]
    for number, oid in enumerate(types):
        called = names[number] if names else f"column{number + 1}"
        name = f"{called}\0".encode()
        parts.append(name + struct.pack(">ihihih", 0, 0, oid, -1, -1, _format(formats, number)))
    return message("T", b"".join(parts))


def row(types: Sequence[int], values: Sequence[Value], formats: Sequence[int] = ()) -> bytes:
    """Make a row."""
    parts = [_INT2.pack(len(values))]
    for number, (oid, value) in enumerate(zip(types, values, strict=True)):
        if value is None:
            parts.append(_INT4.pack(-1))
            continue
        binary = bool(_format(formats, number))
        data = _in_binary(oid, value) if binary else _as_text(oid, value)
        parts.append(_INT4.pack(len(data)) + data)
    return message("D", b"".join(parts))


def _format(formats: Sequence[int], number: int) -> int:
    return formats[number if len(formats) > 1 else 0] if formats else 0


def _as_text(oid: int, value: Value) -> bytes:
    if oid == BOOL:
        return b"t" if value else b"f"
    return str(value).encode()


def _in_binary(oid: int, value: Value) -> bytes:
    form = _BINARY.get(oid)
    return struct.pack(form, value) if form else str(value).encode()


def complete(tag: str) -> bytes:
    """Say that a statement is through."""
    return message("C", f"{tag}\0".encode())


def error(refusal: Refusal, severity: str = "ERROR") -> bytes:
    """Say what is wrong."""
    fields = {"S": severity, "V": severity, "C": refusal.sqlstate, "M": refusal.message}
    told = "".join(f"{key}{value}\0" for key, value in fields.items())
    return message("E", f"{told}\0".encode())
