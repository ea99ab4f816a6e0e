"""Belief: a key computed here is the key that the server computes, in every encoding."""

from __future__ import annotations

import json
import random
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from advlock._hash import hashtext, hashtextextended
from advlock._key import Key, pg_encoding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GOLDEN = json.loads((Path(__file__).parents[1] / "unit/golden_keys.json").read_text("utf-8"))
COUNT = 12_000
ALPHABETS = {
    "ASCII": "".join(map(chr, range(1, 128))),
    "LATIN1": "".join(map(chr, range(1, 256))),
    "UTF8": "abc é ß ☃ 日本語 \U0001f512 \U0001d11e ÿĀ\u0301\ufffd\uffff\U0010ffff",
}

HASHES = """
SELECT t, s, hashtext(t), hashtextextended(t, 0), hashtextextended(t, s)
FROM unnest(%s::text[], %s::bigint[]) AS given(t, s)
"""
CHARACTERS = """
CREATE FUNCTION pg_temp.character(bytes bytea, encoding text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN convert_from(bytes, encoding);
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$
"""


def names(alphabet: str, seed: int) -> Iterator[str]:
    """Seeded random strings: every short length, the empty one, and a few of 1 000 characters."""
    rng = random.Random(seed)  # noqa: S311 (the same names in every run)
    yield ""
    for n in range(1, COUNT):
        length = 1000 if n % 400 == 0 else n % 40
        yield "".join(rng.choices(alphabet, k=length))


def mismatches(connection: psycopg.Connection[Any], texts: Iterable[str], codec: str) -> list[str]:
    """Return those texts whose hashes, one with a random seed, the server computes otherwise."""
    given = list(texts)
    rng = random.Random(len(given))  # noqa: S311
    seeds = [rng.randrange(-(2**63), 2**63) for _ in given]
    rows = connection.execute(HASHES, (given, seeds)).fetchall()
    assert [row[0] for row in rows] == given, "the server saw other texts than we sent"
    return [
        text
        for text, seed, small, big, seeded in rows
        if (small, big, seeded)
        != (
            hashtext(data := text.encode(codec)),
            hashtextextended(data),
            hashtextextended(data, seed),
        )
    ]


@pytest.fixture
def latin1(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a LATIN1 database of its own."""
    name = f"advlock_latin1_{secrets.token_hex(4)}"
    create = sql.SQL(
        "CREATE DATABASE {} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    ).format(sql.Identifier(name))
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(create)
        try:
            with psycopg.connect(
                make_conninfo(dsn, dbname=name, client_encoding="UTF8"), autocommit=True
            ) as connection:
                yield connection
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize("alphabet", ["ASCII", "UTF8"])
def test_hashes_equal_the_server_s(admin: psycopg.Connection[Any], alphabet: str) -> None:
    """12 000 generated names, three hashes each: not one differs."""
    texts = list(names(ALPHABETS[alphabet], seed=1))
    assert "" in texts
    assert any(len(text) == 1000 for text in texts)
    assert mismatches(admin, texts, "utf-8") == []


def test_hashes_equal_the_server_s_in_a_latin1_database(
    latin1: psycopg.Connection[Any], admin: psycopg.Connection[Any]
) -> None:
    """The hash runs over the bytes of the server's encoding, whatever the client's encoding is."""
    (encoding,) = latin1.execute("SHOW server_encoding").fetchone() or ("?",)
    assert mismatches(latin1, names(ALPHABETS["LATIN1"], seed=2), pg_encoding(encoding)) == []
    # The control: taken for UTF-8, the same names of the same database miss their locks.
    assert mismatches(latin1, ["nightly", "é"], "utf-8") == ["é"]
    assert mismatches(admin, ["nightly", "é"], "utf-8") == []


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
def test_the_frozen_vectors_are_what_this_server_answers(
    admin: psycopg.Connection[Any], latin1: psycopg.Connection[Any], encoding: str
) -> None:
    """The golden file is a statement about PostgreSQL, so every version must still make it."""
    connection = {"UTF8": admin, "LATIN1": latin1}[encoding]
    golden = GOLDEN[encoding]
    rows = connection.execute(
        "SELECT t, s, hashtext(t), hashtextextended(t, s)"
        " FROM unnest(%s::text[], %s::bigint[]) AS given(t, s)",
        ([name for name, *_ in golden], [seed for _, seed, *_ in golden]),
    ).fetchall()
    assert [list(row) for row in rows] == golden


SQL_KEYS = [
    Key.of("nightly"),
    Key.of('it\'s \\ "quoted"; --', namespace="o'b"),
    Key.of("日本語 🔒"),
    Key.hashtext("nightly"),
    Key.slot("nightly", 3),
    *(Key.of(n) for n in (0, 42, -1, -42, 2**31, -(2**31), 2**63 - 1, -(2**63))),
    *(Key.of((a, b)) for a in (1, -7, 2**31 - 1, -(2**31)) for b in (2, -1, -(2**31))),
]


@pytest.mark.parametrize("key", SQL_KEYS, ids=str)
def test_a_dba_who_pastes_the_sql_takes_the_same_lock(
    admin: psycopg.Connection[Any], key: Key
) -> None:
    """`Key.sql` locks in psql what `Key` names here, and `Key.from_pg` reads it back."""
    with admin.transaction():
        admin.execute(f"SELECT pg_advisory_xact_lock({key.sql})".encode())
        rows = admin.execute(
            "SELECT classid::bigint, objid::bigint, objsubid FROM pg_locks"
            " WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ).fetchall()
    assert rows == [(key.classid, key.objid, key.objsubid)]
    assert [Key.from_pg(*row) for row in rows] == [key]


HIGH = range(0xA1, 0xFF)
SINGLE_BYTE = [bytes([n]) for n in range(0x80, 0x100)]
TWO_BYTES = [bytes([a, b]) for a in HIGH for b in HIGH]
LATIN = [f"LATIN{n}" for n in range(1, 11)]
WINDOWS = [f"WIN{n}" for n in (866, 874, *range(1250, 1259))]
OTHERS = ["KOI8R", "KOI8U", *(f"ISO_8859_{n}" for n in (5, 6, 7, 8))]
MULTI_BYTE = ["EUC_CN", "EUC_JP", "EUC_JIS_2004", "EUC_KR"]
# The only character of all these encodings that Python and PostgreSQL write in different bytes:
# one of the two places JIS has for it.
EXCEPTIONS = {("EUC_JP", "№")}


def test_python_s_codecs_write_the_server_s_bytes(admin: psycopg.Connection[Any]) -> None:
    """Every code of every supported encoding: a name's bytes, and so its key, are the server's."""
    admin.execute(CHARACTERS)
    compared: dict[str, int] = {}
    different = set()
    for encoding in (*LATIN, *WINDOWS, *OTHERS, *MULTI_BYTE):
        codes = TWO_BYTES if encoding in MULTI_BYTE else SINGLE_BYTE
        rows = admin.execute(
            "SELECT convert_to(t, %s), t"
            " FROM unnest(%s::bytea[]) AS given(b), pg_temp.character(b, %s) AS decoded(t)"
            " WHERE t IS NOT NULL",
            (encoding, codes, encoding),
        ).fetchall()
        for data, text in rows:
            ours = encoded(text, pg_encoding(encoding))
            compared[encoding] = compared.get(encoding, 0) + (ours is not None)
            if ours not in (None, data):
                different.add((encoding, text))
    assert different == EXCEPTIONS
    assert min(compared.values()) >= 80
    assert min(compared[encoding] for encoding in MULTI_BYTE) >= 6000


def encoded(text: str, codec: str) -> bytes | None:
    """The bytes Python has for a text, None where it has no such character."""
    try:
        return text.encode(codec)
    except UnicodeEncodeError:
        return None
