"""The locks whose keys follow from a name that only the application has. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from advlock import _hash
from advlock._catalogue import _hashes
from advlock._catalogue._computed import ecto, utf8
from advlock._catalogue._entry import Named
from advlock._key import Key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._catalogue._entry import Known

_SQLX_INFO: Final = b"SQLx (Rust) Postgres advisory lock"
_LONGEST: Final = 9  # characters of seven bits in 63 bits
_SHORTEST: Final = 3  # of what is taken for a name
_LIKE_A_NAME: Final = re.compile(
    r"[A-Za-z][a-z]+\d*(?:[_.:-][a-z]+\d*|[_.:-]\d+)*|[A-Z]{2,}\d*(?:_[A-Z]+\d*)*"
)
_SEVEN: Final = 0x7F
_WORD: Final = 0xFFFFFFFF
_HEX: Final = re.compile(r"[0-9a-fA-F]{8},?[0-9a-fA-F]{8}")
_DAEMON: Final = 4444  # Marten's DaemonLockId
_POSITIVE: Final = 0x7FFFFFFF
_MODULE: Final = re.compile(r"[A-Z][A-Za-z0-9_]*(?:\.[A-Z][A-Za-z0-9_]*)+")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _pair(value: int) -> Key:
    return Key(pair=True, value=_hashes.signed64(value))


def _sqlx(name: str, _codec: str) -> Key:
    return Key.of(_hashes.hkdf_sha256(utf8(name), _SQLX_INFO))


def _pglock(name: str, _codec: str) -> Key:
    return Key.of(_hashes.digest("sha256", utf8(name), "little"))


def _npm(name: str, _codec: str) -> Key:
    value = _hashes.digest("sha256", utf8(name), "little")
    return _pair((value & _WORD) << 32 | value >> 32 & _WORD)


def _short(name: str, _codec: str) -> Key | None:
    """Make the key that DistributedLock makes of up to nine characters of ASCII."""
    if len(name) > _LONGEST or not name.isascii():
        return None
    value = 0
    for character in name:
        value = value << 7 | ord(character)
    value <<= 1
    for _ in range(len(name), _LONGEST):
        value = value << 7 | _SEVEN
    return _pair(value)


def short_name(key: Key) -> str | None:
    """Read the name back of which DistributedLock made a key; None if it made it of none.

    Every second pair of integers spells some nine characters, so only what looks like a name is
    taken for one: words of one case, numbers behind them, and `_`, `.`, `:` or `-` between them.
    Of random pairs three in a million do.
    """
    value, length = key.value & 0xFFFFFFFFFFFFFFFF, _LONGEST
    while length and value & _SEVEN == _SEVEN:
        value, length = value >> 7, length - 1
    if value & 1 or length < _SHORTEST:
        return None
    value >>= 1
    name = "".join(chr(value >> 7 * place & _SEVEN) for place in reversed(range(length)))
    return name if _LIKE_A_NAME.fullmatch(name) else None


def _distributed(name: str, codec: str) -> Key | None:
    if _short(name, codec) is not None:
        return None
    if _HEX.fullmatch(name):
        value = int(name.replace(",", ""), 16)
        return _pair(value) if "," in name else Key.of(_hashes.signed64(value))
    return Key.of(_hashes.digest("sha1", utf8(name), "little"))


def _symfony(name: str, _codec: str) -> Key:
    return Key.of(_hashes.crc32(utf8(name)))


def _ruby(name: str, _codec: str) -> Key:
    return Key.of((_hashes.crc32(utf8(name)) & _POSITIVE, 0))


def _coder(name: str, _codec: str) -> Key:
    return Key.of(_hashes.fnv1_64(utf8(name)))


def _hatchet(name: str, _codec: str) -> Key:
    return Key.of(_hashes.fnv1a_64(utf8(name)))


def _good_job(name: str, codec: str) -> Key | None:
    text = f"good_jobs-{name}" if _UUID.fullmatch(name) else name
    data = _encoded(text, codec)
    return None if data is None else Key.of(_hashes.digest("md5", data, "big"))


def _marten(name: str, _codec: str) -> Key | None:
    if ":" not in name:
        return None
    return Key.of(abs(_hashes.dotnet(name)) + _DAEMON)


def _ecto(name: str, _codec: str) -> Key | None:
    return ecto(name) if _MODULE.fullmatch(name) else None


def _pgmq(name: str, codec: str) -> Key | None:
    data = _encoded(f"pgmq.queue_{name}", codec)
    return None if data is None else Key.of(_hash.hashtext(data))


def _electric(name: str, codec: str) -> Key | None:
    data = _encoded(f"electric_slot_{name}", codec)
    return None if data is None else Key.of(_hash.hashtext(data))


def _encoded(text: str, codec: str) -> bytes | None:
    try:
        return text.encode(codec)
    except UnicodeEncodeError:
        return None


_DISTRIBUTED: Final = (
    "madelson/DistributedLock@3da3eaf:src/DistributedLock.Postgres/PostgresAdvisoryLockKey.cs"
)
_ITS_TESTS: Final = "its own tests"

NAMED: Final = (
    Named(
        "sqlx",
        "first 8 bytes of HKDF-SHA256(name, info 'SQLx (Rust) Postgres advisory lock'), "
        "little-endian",
        "PgAdvisoryLock::new(name)",
        "launchbadge/sqlx@9d6bf66:sqlx-postgres/src/advisory_lock.rs",
        (),
        "the example of its documentation",
        of=_sqlx,
    ),
    Named(
        "django-pglock",
        "first 8 bytes of sha256(name), little-endian",
        "pglock.advisory(name)",
        "AmbitionEng/django-pglock@1d41173:pglock/core.py",
        (),
        _ITS_TESTS,
        of=_pglock,
    ),
    Named(
        "advisory-lock (npm)",
        "first two words of sha256(name), each little-endian, as a pair",
        "advisoryLock(…)(name), or withlock",
        "binded/advisory-lock@2c08c9b:src/index.js",
        (),
        _ITS_TESTS,
        of=_npm,
    ),
    Named(
        "DistributedLock (.NET)",
        "name of up to 9 characters of ASCII in 7 bits each, 0, then ones, as a pair",
        "PostgresDistributedLock of a short name",
        _DISTRIBUTED,
        of=_short,
    ),
    Named(
        "DistributedLock (.NET)",
        "first 8 bytes of sha1(name), little-endian; 16 hexadecimal digits stand for themselves",
        "PostgresDistributedLock of a longer name",
        _DISTRIBUTED,
        (),
        _ITS_TESTS,
        of=_distributed,
    ),
    Named(
        "Symfony",
        "crc32(name)",
        "DoctrineDbalPostgreSqlStore",
        "symfony/symfony@0cd583c:src/Symfony/Component/Lock/Store/DoctrineDbalPostgreSqlStore.php",
        of=_symfony,
    ),
    Named(
        "with_advisory_lock (Ruby)",
        "(crc32(name) & 0x7fffffff, WITH_ADVISORY_LOCK_PREFIX), the latter 0 unless a number",
        "with_advisory_lock(name)",
        "ClosureTree/with_advisory_lock@b5fec35:lib/with_advisory_lock/postgresql_advisory.rb",
        of=_ruby,
    ),
    Named(
        "Coder",
        "fnv1_64(name)",
        "lock of a name of its own (GenLockID)",
        "coder/coder@0196944:coderd/database/lock.go",
        of=_coder,
    ),
    Named(
        "Hatchet",
        "fnv1a_64(name)",
        "lock of a name of its own (AdvisoryLockKey)",
        "hatchet-dev/hatchet@89d130f:pkg/repository/sqlchelpers/advisory.go",
        of=_hatchet,
    ),
    Named(
        "GoodJob",
        "first 8 bytes of md5(text); the text is 'good_jobs-' id, 'good_job_processes-' id, "
        "'good_job_batches-' id or a concurrency key",
        "a running job, by its id, or a text that GoodJob locks",
        "bensheldon/good_job@81db22b:app/models/concerns/good_job/advisory_lockable.rb",
        of=_good_job,
    ),
    Named(
        "Marten",
        "abs(GetDeterministicHashCode(schema ':' shard)) + 4444",
        "asynchronous daemon of one shard, such as 'public:Trip:All' (DaemonLockId)",
        "JasperFx/jasperfx@4ee0695:src/JasperFx.Events/Daemon/IProjectionDistributor.cs",
        of=_marten,
    ),
    Named(
        "Ecto",
        "phash2({ecto, nil, repo})",
        "migration (migration_lock: :pg_advisory_lock) of a repo, such as MyApp.Repo",
        "elixir-ecto/ecto_sql@5e45b43:lib/ecto/adapters/postgres.ex",
        (),
        _ITS_TESTS,
        of=_ecto,
    ),
    Named(
        "pgmq",
        "hashtext('pgmq.queue_' name)",
        "creation or removal of a queue",
        "pgmq/pgmq@c8575e3:pgmq-extension/sql/pgmq.sql",
        of=_pgmq,
    ),
    Named(
        "Electric",
        "hashtext('electric_slot_' stream)",
        "replication stream",
        "electric-sql/electric@dc07a1e:packages/sync-service/lib/electric/postgres/"
        "replication_client/connection_setup.ex",
        of=_electric,
    ),
)


def formulas_of(name: str, codec: str = "utf-8") -> Iterator[tuple[Known, Key]]:
    """Say which keys other tools would make of a name.

    Args:
        name: What an application calls the lock.
        codec: The Python codec of the server's encoding, for the formulas that the server computes.

    Returns:
        A tool and its key, one after the other; whether anybody uses that tool is not known, so
        none of them is certain.
    """
    for entry in NAMED:
        key = entry.of(name, codec)
        if key is not None:
            yield entry.known(certain=False), key
