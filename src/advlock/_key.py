"""Names become keys: pure, frozen by golden vectors, the same for every client and for psql.

A name is a `str`, an `int` or a pair of ints; a `Key` is what the server locks. Integers and
pairs are taken as they are. A string is hashed over its bytes *in the server's encoding*, because
that is what the server hashes: `hashtext('é')` differs between a UTF-8 and a LATIN1 database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, TypeAlias, get_args

from advlock import _hash
from advlock.errors import ConfigError

Scheme: TypeAlias = Literal["hashtextextended", "hashtext"]

_SCHEMES: Final = get_args(Scheme)
_WORD: Final = 0xFFFFFFFF
_SUFFIX: Final = 0xFFFF
# Two ints take the one key space of their own that pg_locks calls objsubid 2.
_OBJSUBIDS: Final = (1, 2)
_PRINTABLE: Final = 128
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True, order=True, repr=False)
class Key:
    """What the server locks: 64 bits in one of two key spaces.

    Keys are equal, hash and sort by key space and value alone; the name a key came from is only
    remembered for people to read. Sorting is the canonical order in which several locks are taken.
    Keys are made by `Key.of`, `Key.hashtext`, `Key.slot`, `Key.agreed` and `Key.from_pg`, which
    check what they are given; the constructor does not.

    Attributes:
        pair: True in the space of two 32-bit integers, False in that of one 64-bit integer.

        value: The key as one signed 64-bit integer; for a pair, the first half is the high one.

        name: The string the key was made from, namespace included; None for integers and pairs.

        scheme: The SQL function that made `value` of `name`.

        seed: The seed given to it: 0, or the number of a semaphore's slot. Below zero it is none:
            -1 for a semaphore's queue, and -1-n for the agreement that it has n slots.
    """

    __module__ = "advlock"

    pair: bool
    value: int
    name: str | None = field(default=None, compare=False)
    scheme: Scheme = field(default="hashtextextended", compare=False)
    seed: int = field(default=0, compare=False)

    @classmethod
    def of(
        cls,
        x: Name,
        *,
        namespace: str = "",
        encoding: str = "utf-8",
        scheme: Scheme = "hashtextextended",
    ) -> Key:
        """Make a key of a name.

        Args:
            x: A string, a signed 64-bit integer, or a pair of signed 32-bit integers. A `Key` is
                returned as it is.
            namespace: Put before a string, with a colon: `billing` and `nightly` make
                `billing:nightly`. Integers and pairs pass through untouched.
            encoding: The Python codec of the server's encoding; see `pg_encoding`.
            scheme: `hashtextextended` for 64 bits, or `hashtext` for the 32 bits that
                `pg_advisory_lock(hashtext('nightly'))` takes.

        Raises:
            ConfigError: The name cannot be a key; the message says why and what to write instead.
        """
        if isinstance(x, str):
            return _named(str.__str__(x), namespace, encoding, scheme, 0)
        if isinstance(x, Key):
            return x
        if isinstance(x, int):
            return Key(pair=False, value=_integer(x, 64, "a key"))
        if isinstance(x, tuple):
            return _paired(x)
        raise _wrong_type(x)

    @classmethod
    def hashtext(cls, name: str, *, encoding: str = "utf-8") -> Key:
        """Make the 32-bit key that `pg_advisory_lock(hashtext('name'))` locks.

        Args:
            name: The string, just as it stands in the SQL.
            encoding: The Python codec of the server's encoding.

        Raises:
            ConfigError: The name cannot be a key.
        """
        return _named(_string(name), "", encoding, "hashtext", 0)

    @classmethod
    def slot(cls, name: str, n: int, *, namespace: str = "", encoding: str = "utf-8") -> Key:
        """Make the key of one slot of a semaphore; slot 0 is the plain lock of that name.

        Args:
            name: The semaphore's name.
            n: The slot, from 0 up; it becomes the hash's seed.
            namespace: As for `of`.
            encoding: The Python codec of the server's encoding.

        Raises:
            ConfigError: The name cannot be a key, or `n` is no slot.
        """
        seed = _integer(n, 64, "a slot")
        if seed < 0:
            raise ConfigError(f"slots are counted from 0, so {seed} is none of them")
        return _named(_string(name), namespace, encoding, "hashtextextended", seed)

    @classmethod
    def agreed(cls, name: str, slots: int, *, namespace: str = "", encoding: str = "utf-8") -> Key:
        """Make the key that whoever holds a slot of a semaphore shares: how many slots it has.

        The keys for all numbers are alike but for the last 16 bits, so one sees in `pg_locks`
        whether all agree. That for 0 slots is locked by the first of those who wait.

        Args:
            name: The semaphore's name.
            slots: How many slots it has, at most 65 535; 0 for its queue.
            namespace: As for `of`.
            encoding: The Python codec of the server's encoding.

        Raises:
            ConfigError: The name cannot be a key, or `slots` is no such number.
        """
        if not 0 <= _integer(slots, 64, "a number of slots") <= _SUFFIX:
            raise ConfigError(f"a semaphore has at most {_SUFFIX} slots, not {slots}")
        key = _named(_string(name), namespace, encoding, "hashtextextended", -1)
        value = key.value & ~_SUFFIX | slots
        return cls(False, value, key.name, key.scheme, -1 - slots)  # noqa: FBT003

    @classmethod
    def from_pg(cls, classid: int, objid: int, objsubid: int) -> Key:
        """Read a key back from the columns of `pg_locks` (of its rows of locktype `advisory`).

        Args:
            classid: The high half, unsigned 32-bit, as the server shows it.
            objid: The low half, likewise.
            objsubid: 1 for a 64-bit key, 2 for a pair.

        Raises:
            ConfigError: These are not the columns of an advisory lock; an extension may use other
                values of `objsubid` for locks of its own.
        """
        if objsubid not in _OBJSUBIDS:
            raise ConfigError(
                f"objsubid {objsubid!r} is neither 1 (one bigint) nor 2 (two ints): the lock"
                " belongs to an extension; filter with: WHERE locktype = 'advisory'"
                " AND objsubid IN (1, 2)"
            )
        for column, half in (("classid", classid), ("objid", objid)):
            if not 0 <= half <= _WORD:
                raise ConfigError(f"{column} in pg_locks is unsigned, 0 to {_WORD}; this is {half}")
        return cls(pair=objsubid == _OBJSUBIDS[1], value=_signed(classid) << 32 | objid)

    @property
    def classid(self) -> int:
        """The high half, unsigned, as `pg_locks` shows it."""
        return self.value >> 32 & _WORD

    @property
    def objid(self) -> int:
        """The low half, unsigned, as `pg_locks` shows it."""
        return self.value & _WORD

    @property
    def objsubid(self) -> int:
        """The key space, 1 for one bigint and 2 for two ints, as `pg_locks` shows it."""
        return _OBJSUBIDS[self.pair]

    @property
    def parts(self) -> int | tuple[int, int]:
        """The signed integers one would write in SQL, one or a pair."""
        return (_signed(self.classid), _signed(self.objid)) if self.pair else self.value

    @property
    def sql(self) -> str:
        """The arguments of `pg_advisory_lock(…)` as a DBA would write them."""
        if self.name is not None:
            text = "'" + self.name.replace("'", "''") + "'"
            if self.seed < 0:
                return f"{self.scheme}({text}, -1) & {~_SUFFIX} | {-1 - self.seed}"
            seed = f", {self.seed}" if self.scheme == "hashtextextended" else ""
            return f"{self.scheme}({text}{seed})"
        if self.pair:
            return f"{_literal(_signed(self.classid), 32)}, {_literal(_signed(self.objid), 32)}"
        return _literal(self.value, 64)

    def __str__(self) -> str:
        """Say it for a message: `'nightly' (1260364897216860177)`, `42`, `(1, 2)`."""
        return str(self.parts) if self.name is None else f"{self.name!r} ({self.value})"

    def __repr__(self) -> str:
        """Show both faces: the SQL one would write, and the row to look for in `pg_locks`."""
        value = f" = {self.value}" if self.name is not None else ""
        return f"<Key {self.sql}{value}; pg_locks {self.classid}/{self.objid}/{self.objsubid}>"


Name: TypeAlias = str | int | tuple[int, int] | Key


# Only strings are remembered: `(1, True) == (1, 1)`, so a cache of pairs would let a bool through.
@lru_cache(maxsize=4096)
def _named(name: str, namespace: str, encoding: str, scheme: Scheme, seed: int) -> Key:
    if not name:
        raise ConfigError(
            "a lock's name is empty; write what it protects, such as 'nightly-report'"
        )
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"no such key scheme: {scheme!r}; write keys='hashtextextended' or keys='hashtext'"
        )
    full = f"{namespace}:{name}" if namespace else name
    data = _encoded(full, encoding)
    if scheme == "hashtext":
        return Key(False, _hash.hashtext(data), full, scheme)  # noqa: FBT003
    return Key(False, _hash.hashtextextended(data, seed), full, scheme, seed)  # noqa: FBT003


def _encoded(name: str, encoding: str) -> bytes:
    if "\0" in name:
        raise ConfigError(
            f"the name {_shown(name)} holds a NUL character, which no text of PostgreSQL's can;"
            " leave it out"
        )
    try:
        return name.encode(encoding)
    except UnicodeEncodeError as error:
        bad = name[error.start]
        if "\ud800" <= bad <= "\udfff":
            raise ConfigError(
                f"the name {_shown(name)} holds a lone surrogate ({bad!r}), which is no character;"
                " decode the bytes it came from with their real encoding"
            ) from None
        raise ConfigError(
            f"the name {_shown(name)} holds {bad!r}, which the server's encoding ({encoding})"
            " cannot express; write the name in ASCII, or use an integer"
        ) from None
    except LookupError:
        raise ConfigError(
            f"Python has no codec {encoding!r}; write one such as 'utf-8' or 'iso8859-1'"
        ) from None


def _paired(x: tuple[object, ...]) -> Key:
    # The annotation of `of` promises two ints; this is where a caller without a type checker lands.
    if len(x) != len(_OBJSUBIDS):
        raise ConfigError(
            f"a pair key is exactly two ints such as (7, 42), not {len(x)} values: {_shown(x)}"
        )
    a, b = (_integer(half, 32, "each half of a pair key") for half in x)
    return Key(pair=True, value=a << 32 | b & _WORD)


def _integer(x: object, bits: int, what: str) -> int:
    if not isinstance(x, int) or isinstance(x, bool):
        raise ConfigError(
            f"{what} is an int, not {type(x).__name__} ({_shown(x)}); write a number such as 42"
        )
    # Not int(x): a subclass may answer that as it likes.
    number = int.__int__(x)
    bound = 1 << bits - 1
    if not -bound <= number < bound:
        # Python refuses to print ints of more than 4 300 digits, and nobody wants to read them.
        given = number if number.bit_length() <= _PRINTABLE else f"{number.bit_length()} bits long"
        raise ConfigError(
            f"{what} is a signed {bits}-bit integer, {-bound} to {bound - 1}; this one is {given};"
            " write a number in that range, or a string to have it hashed"
        )
    return number


def _string(x: object) -> str:
    if not isinstance(x, str):
        raise ConfigError(
            f"only a str can be hashed, not {type(x).__name__} ({_shown(x)}); write str(…)"
        )
    return str.__str__(x)


def _wrong_type(x: object) -> ConfigError:
    if isinstance(x, bytes | bytearray | memoryview):
        hint = "write name.decode(), because the server hashes text"
    elif isinstance(x, list):
        hint = "write a pair as a tuple, such as (7, 42)"
    elif x is None:
        hint = "write what it protects, such as 'nightly-report'"
    else:
        hint = "write str(…) of it if that is the name you mean"
    kind = "" if x is None else f"{type(x).__name__} "
    return ConfigError(
        f"a lock's name is a str, an int or a pair of ints, not {kind}{_shown(x)}; {hint}"
    )


def _shown(x: object) -> str:
    try:
        text = repr(x)
    except ValueError:  # an int of more digits than Python prints, somewhere in a tuple
        return f"a {type(x).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _signed(half: int) -> int:
    return half - ((half & 0x80000000) << 1)


def _literal(number: int, bits: int) -> str:
    # SQL has no negative literals, and 2^63 (2^31) is a numeric (bigint) before the minus applies.
    if number == -(1 << bits - 1):
        return f"({number})::{'bigint' if bits == 64 else 'int'}"  # noqa: PLR2004
    return str(number)


# Python's codec and the server write the same bytes for every character that both have, except `№`
# in EUC_JP (tests/postgres/test_hash_equality.py). Python has no codec for EUC_TW and
# MULE_INTERNAL; like all server encodings they contain ASCII, so ASCII names still work.
# A SQL_ASCII server takes the client's bytes untouched, and advlock's are UTF-8.
_CODECS: Final = {
    "UTF8": "utf-8",
    "SQL_ASCII": "utf-8",
    **{f"LATIN{n}": f"iso8859-{n if n <= 4 else n + 4}" for n in (1, 2, 3, 4, 5, 6)},  # noqa: PLR2004
    **{f"LATIN{n}": f"iso8859-{n + 6}" for n in (7, 8, 9, 10)},
    **{f"ISO_8859_{n}": f"iso8859-{n}" for n in (5, 6, 7, 8)},
    **{f"WIN{n}": f"cp{n}" for n in (866, 874, *range(1250, 1259))},
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "EUC_JP": "euc_jp",
    "EUC_JIS_2004": "euc_jis_2004",
    "EUC_CN": "gb2312",
    "EUC_KR": "euc_kr",
    "EUC_TW": "ascii",
    "MULE_INTERNAL": "ascii",
}


def pg_encoding(server_encoding: str) -> str:
    """Return the Python codec for a PostgreSQL server encoding.

    Args:
        server_encoding: What `SHOW server_encoding` answers, such as `UTF8` or `LATIN1`.

    Raises:
        ConfigError: PostgreSQL has no server encoding of this name that advlock knows.
    """
    codec = _CODECS.get(server_encoding.upper())
    if codec is None:
        raise ConfigError(
            f"advlock does not know the server encoding {server_encoding!r}, so it cannot hash"
            " names as this server does; use a UTF8 database, or integer keys"
        )
    return codec
