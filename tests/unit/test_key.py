"""Names and keys: what becomes which key, and what is refused with which words."""

from __future__ import annotations

import enum
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock._hash import hashtextextended
from advlock._key import Key, pg_encoding
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from random import Random

GOLDEN = json.loads(Path(__file__).with_name("golden_keys.json").read_text(encoding="utf-8"))

INT4 = st.integers(-(2**31), 2**31 - 1)
INT8 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
KEYS = st.one_of(INT8, st.tuples(INT4, INT4), NAMES).map(Key.of)


class Job(enum.StrEnum):
    """Names as an enumeration has them."""

    NIGHTLY = "nightly"


class Shard(enum.IntEnum):
    """Integers as an enumeration has them."""

    SEVENTH = 7


@pytest.mark.parametrize(("encoding", "codec"), [("UTF8", "utf-8"), ("LATIN1", "iso8859-1")])
def test_names_become_the_golden_keys(encoding: str, codec: str) -> None:
    """Each way to hash a name gives what the server gave: 64 bits, 32 bits, a slot's seed."""
    rows = [row for row in GOLDEN[encoding] if row[0]]
    assert len(rows) >= 5
    for name, seed, small, big in rows:
        assert Key.hashtext(name, encoding=codec).value == small
        assert Key.of(name, encoding=codec, scheme="hashtext").value == small
        if seed >= 0:
            assert Key.slot(name, seed, encoding=codec).value == big
        if seed == 0:
            assert Key.of(name, encoding=codec).value == big


@given(KEYS)
def test_pg_locks_round_trip(key: Key) -> None:
    """What pg_locks shows of a key reads back as that key, and all three columns are in range."""
    assert 0 <= key.classid < 2**32
    assert 0 <= key.objid < 2**32
    assert Key.from_pg(key.classid, key.objid, key.objsubid) == key


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from((1, 2)))
def test_every_row_of_pg_locks_is_a_key(classid: int, objid: int, objsubid: int) -> None:
    """Decoding loses nothing: the columns come back, and the parts make the same key again."""
    key = Key.from_pg(classid, objid, objsubid)
    assert (key.classid, key.objid, key.objsubid) == (classid, objid, objsubid)
    assert Key.of(key.parts) == key


@pytest.mark.parametrize(
    ("x", "columns"),
    [
        (-1, (4294967295, 4294967295, 1)),
        (-42, (4294967295, 4294967254, 1)),
        (-(2**63), (2147483648, 0, 1)),
        (42, (0, 42, 1)),
        ((-7, 1), (4294967289, 1, 2)),
        ((1, -7), (1, 4294967289, 2)),
        ((1, 2), (1, 2, 2)),
    ],
)
def test_columns_measured_on_the_server(x: Any, columns: tuple[int, int, int]) -> None:
    """Unsigned halves, as a real server showed them in pg_locks."""
    key = Key.of(x)
    assert (key.classid, key.objid, key.objsubid) == columns
    assert key.parts == x


@given(INT4, INT4)
def test_a_pair_and_the_bigint_of_the_same_bits_are_two_keys(a: int, b: int) -> None:
    """(1, 2) and (1 << 32) | 2 have equal values in two key spaces, so they are unequal keys."""
    pair = Key.of((a, b))
    single = Key.of(pair.value)
    assert pair.value == single.value
    assert pair != single
    assert {pair, single} == {single, pair}
    assert len({pair, single}) == 2


@given(st.lists(KEYS, max_size=8), st.randoms())
def test_sorting_is_canonical(keys: list[Key], random: Random) -> None:
    """Whoever sorts the same keys locks them in the same order, whatever order they came in."""
    expected = sorted(keys, key=lambda key: (key.objsubid, key.value))
    random.shuffle(keys)
    assert sorted(keys) == expected


def test_equality_ignores_the_name() -> None:
    """A key read back from pg_locks has no name and is still the same lock."""
    named = Key.of("nightly")
    bare = Key.of(named.value)
    assert named == bare
    assert hash(named) == hash(bare)
    assert (named.name, bare.name) == ("nightly", None)


def test_a_namespace_prefixes_strings_and_nothing_else() -> None:
    """`billing` and `nightly` are the lock `billing:nightly`; what is no string passes through."""
    assert Key.of("nightly", namespace="billing") == Key.of("billing:nightly")
    assert Key.of("nightly", namespace="billing").name == "billing:nightly"
    assert Key.of("nightly", namespace="billing") != Key.of("nightly")
    for x in (42, (1, 2), Key.of("nightly")):
        assert Key.of(x, namespace="billing") == Key.of(x)


def test_a_key_passes_through_as_the_same_object() -> None:
    """A key already says everything; neither scheme nor encoding touches it."""
    key = Key.hashtext("nightly")
    assert Key.of(key, scheme="hashtextextended", encoding="iso8859-1") is key


def test_names_are_memoised() -> None:
    """The second look-up of a name makes no second key."""
    assert Key.of("nightly-report") is Key.of("nightly-report")


@given(NAMES, st.integers(0, 64))
def test_slot_zero_is_the_plain_lock(name: str, n: int) -> None:
    """A semaphore of one slot and the lock of its name exclude each other; other slots do not."""
    assert Key.slot(name, 0) == Key.of(name)
    assert Key.slot(name, n).value == hashtextextended(name.encode(), n)
    assert (Key.slot(name, n) == Key.of(name)) is (n == 0)


def test_subclasses_of_str_and_int_are_their_values() -> None:
    """Enumerations name locks as their plain values do."""
    assert Key.of(Job.NIGHTLY) == Key.of("nightly")
    assert type(Key.of(Job.NIGHTLY).name) is str
    assert Key.of(Shard.SEVENTH) == Key.of(7)
    assert Key.of((Shard.SEVENTH, 1)) == Key.of((7, 1))
    assert type(Key.of(Shard.SEVENTH).value) is int


@pytest.mark.parametrize(
    ("key", "sql"),
    [
        (Key.of("nightly"), "hashtextextended('nightly', 0)"),
        (Key.of("it's", namespace="o'b"), "hashtextextended('o''b:it''s', 0)"),
        (Key.slot("nightly", 3), "hashtextextended('nightly', 3)"),
        (Key.hashtext("nightly"), "hashtext('nightly')"),
        (Key.of("nightly", scheme="hashtext"), "hashtext('nightly')"),
        (Key.of(42), "42"),
        (Key.of((1, -2)), "1, -2"),
        (Key.of(-(2**63)), "(-9223372036854775808)::bigint"),
        (Key.of((-(2**31), 0)), "(-2147483648)::int, 0"),
    ],
)
def test_sql_is_what_a_dba_would_write(key: Key, sql: str) -> None:
    """The argument text can be pasted behind `SELECT pg_advisory_lock(`."""
    assert key.sql == sql


def test_text_for_people() -> None:
    """Messages name the lock; the debugger shows the SQL and the row to look for in pg_locks."""
    assert str(Key.of("job:42")) == "'job:42' (1260364897216860177)"
    assert str(Key.of(42)) == "42"
    assert str(Key.of((1, 2))) == "(1, 2)"
    assert repr(Key.of((-7, 1))) == "<Key -7, 1; pg_locks 4294967289/1/2>"
    assert repr(Key.hashtext("job:42")) == (
        "<Key hashtext('job:42') = 1107005457; pg_locks 0/1107005457/1>"
    )


def test_keys_are_immutable() -> None:
    """A key in a dict stays where it is."""
    with pytest.raises(AttributeError):
        Key.of(1).value = 2  # type: ignore[misc]


@given(KEYS)
def test_keys_pickle(key: Key) -> None:
    """Errors carry their key across processes, so a key survives the journey, name included."""
    copy = pickle.loads(pickle.dumps(key))
    assert copy == key
    assert repr(copy) == repr(key)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (True, "not bool .True.; write a number"),
        (None, "not None; write what it protects"),
        (1.0, r"not float 1\.0; write str"),
        (b"x", "not bytes b'x'; write name.decode"),
        (bytearray(b"x"), "write name.decode"),
        ([1, 2], r"tuple, such as \(7, 42\)"),
        ({1, 2}, "not set"),
        ((), "exactly two ints"),
        ((1,), "exactly two ints"),
        ((1, 2, 3), "exactly two ints"),
        ((1, True), "not bool"),
        ((False, 1), "not bool"),
        ((1, "a"), "not str"),
        ((1, 2.0), "not float"),
        ((10**5000,), "exactly two ints"),
        ((2**31, 0), "signed 32-bit integer.* 2147483648; write a number in that range"),
        ((0, -(2**31) - 1), "signed 32-bit integer"),
        (2**63, "signed 64-bit integer.* 9223372036854775808; write a number in that range"),
        (-(2**63) - 1, "signed 64-bit integer"),
        (10**5000, "16610 bits long"),
        ("", "empty; write what it protects"),
        ("a\0b", "NUL character"),
        ("\ud800", "lone surrogate"),
        ("x" * 999 + "\0", r"x….* NUL"),
    ],
    ids=lambda x: str(type(x).__name__),
)
def test_what_cannot_be_a_key_is_refused_with_a_way_out(x: Any, words: str) -> None:
    """The message says what was wrong and what to write, and can be printed on any terminal."""
    with pytest.raises(ConfigError, match=words) as caught:
        Key.of(x)
    assert len(str(caught.value)) < 300
    str(caught.value).encode("utf-8")


def test_a_bool_is_refused_even_where_its_int_was_seen_before() -> None:
    """`(1, True) == (1, 1)`, so no cache may answer for the other."""
    for good, bad in (((1, 1), (1, True)), (1, True), (0, False)):
        Key.of(good)
        with pytest.raises(ConfigError, match="not bool"):
            Key.of(bad)


@given(NAMES)
def test_a_name_the_encoding_cannot_express_is_refused(name: str) -> None:
    """Under LATIN1 exactly the names of Latin-1 characters become keys."""
    if all(character <= "ÿ" for character in name):
        assert Key.of(name, encoding="iso8859-1").name == name
    else:
        with pytest.raises(ConfigError, match="cannot express; write the name in ASCII"):
            Key.of(name, encoding="iso8859-1")


def test_a_lone_surrogate_is_called_one_under_any_encoding() -> None:
    """A name that is no text at all is not blamed on the server's encoding."""
    with pytest.raises(ConfigError, match="lone surrogate"):
        Key.of("a\udcffb", encoding="iso8859-1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scheme": "md5"}, "keys='hashtextextended' or keys='hashtext'"),
        ({"encoding": "klingon"}, "no codec 'klingon'"),
        ({"namespace": "a\0"}, "NUL"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], words: str) -> None:
    """A client's own settings are checked where they meet the first name."""
    with pytest.raises(ConfigError, match=words):
        Key.of("nightly", **arguments)


@pytest.mark.parametrize("n", [-1, True, 1.0, 2**63, None])
def test_what_is_no_slot_is_refused(n: Any) -> None:
    """Slots are counted from 0."""
    with pytest.raises(ConfigError, match="slot"):
        Key.slot("nightly", n)


@pytest.mark.parametrize("make", [Key.hashtext, lambda name: Key.slot(name, 0)])
@pytest.mark.parametrize("name", ["", 42, None, b"x", "a\0"])
def test_only_text_is_hashed(make: Any, name: Any) -> None:
    """An integer given where a name is hashed would silently become another lock."""
    with pytest.raises(ConfigError):
        make(name)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ((0, 0, 0), "belongs to an extension"),
        ((0, 0, 3), "belongs to an extension"),
        ((-1, 0, 1), "classid in pg_locks is unsigned"),
        ((0, 2**32, 2), "objid in pg_locks is unsigned"),
    ],
)
def test_rows_that_are_no_advisory_lock_are_refused(
    columns: tuple[int, int, int], words: str
) -> None:
    """An extension's lock or a signed column never turns into a key by accident."""
    with pytest.raises(ConfigError, match=words):
        Key.from_pg(*columns)


# The server encodings of PostgreSQL's manual, table "PostgreSQL Character Sets".
SERVER_ENCODINGS = """
EUC_CN EUC_JP EUC_JIS_2004 EUC_KR EUC_TW ISO_8859_5 ISO_8859_6 ISO_8859_7
ISO_8859_8 KOI8R KOI8U LATIN1 LATIN2 LATIN3 LATIN4 LATIN5 LATIN6 LATIN7 LATIN8 LATIN9 LATIN10
MULE_INTERNAL SQL_ASCII UTF8 WIN866 WIN874 WIN1250 WIN1251 WIN1252 WIN1253 WIN1254 WIN1255 WIN1256
WIN1257 WIN1258
"""


@pytest.mark.parametrize("encoding", SERVER_ENCODINGS.split())
def test_every_server_encoding_has_a_codec_that_keeps_ascii(encoding: str) -> None:
    """Whatever the server's encoding, an ASCII name has the same key everywhere."""
    assert Key.of("nightly", encoding=pg_encoding(encoding)) == Key.of("nightly")


@pytest.mark.parametrize("encoding", ["SJIS", "", "utf-9"])
def test_an_encoding_no_server_has_is_refused(encoding: str) -> None:
    """A guess at an encoding would be a guess at the lock."""
    with pytest.raises(ConfigError, match="UTF8 database, or integer keys"):
        pg_encoding(encoding)
