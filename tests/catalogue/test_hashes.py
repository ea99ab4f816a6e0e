"""The hash functions and formulas, against values that others have published."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advlock import Key
from advlock._catalogue import _hashes
from advlock._catalogue._catalogue import Catalogue, formulas_of
from advlock._catalogue._facts import Facts, Table
from advlock._catalogue._named import NAMED, short_name


def test_fnv_equals_the_published_vectors() -> None:
    """FNV-1 and FNV-1a of 'foobar' are those of the FNV authors' test suite."""
    assert _hashes.fnv1_32(b"foobar") == 0x31F0B262
    assert _hashes.fnv1_64(b"foobar") == 0x340D8765A4DDA9C2
    assert _hashes.fnv1a_64(b"foobar") == _hashes.signed64(0x85944171F73967E8)


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0), ("hello", 99162322), ("public", -977423767), ("\U0001f512", 1772661)],
)
def test_java_s_hash_code(text: str, value: int) -> None:
    """Texts hash as Java says, one beyond the first 65 536 characters among them."""
    assert _hashes.java(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 757602046),
        ("Lostfilm", 3595399602),
        ("\u0423\u043a\u0440\u0430\u0457\u043d\u0441\u044c\u043a\u0456Subs", 3279423489),
    ],
)
def test_the_hash_of_dotnet(text: str, value: int) -> None:
    """The empty one is in Microsoft's documentation, the others in a public program's tests."""
    assert _hashes.dotnet(text) & 0xFFFFFFFF == value


def test_golang_migrate_s_own_tests() -> None:
    """The answers of `TestGenerateAdvisoryLockId` come out: Grafana has the one with no schema."""
    facts = Facts(
        "database_name", schemas=("schema_name_1",), tables=(Table(1, "schema_name_1", "x"),)
    )
    assert _tools(Catalogue(facts), Key.of(1764327054)) == ["Grafana"]
    salt, data = 1486364155, b"schema_name_1\0schema_name_2\0database_name"
    assert zlib.crc32(data) * salt & 0xFFFFFFFF == 3743845847
    # The same with the name that the table has by default.
    data = b"schema_name_1\0schema_migrations\0database_name"
    key = Key.of(zlib.crc32(data) * salt & 0xFFFFFFFF)
    assert _tools(Catalogue(facts), key) == ["golang-migrate"]


def _tools(catalogue: Catalogue, key: Key) -> list[str]:
    return [known.tool for known in catalogue.identify(key.classid, key.objid, key.objsubid)]


def test_sqlx_in_the_database_of_a_public_report() -> None:
    """matrix-authentication-service#5297 shows classid 438033630, objid 3765090638."""
    catalogue = Catalogue(Facts("matrixauthenticationservice"))
    (known,) = catalogue.identify(438033630, 3765090638, 1)
    assert (known.tool, known.certain) == ("sqlx", True)


@pytest.mark.parametrize(
    ("tool", "name", "key"),
    [
        ("sqlx", "my first Postgres advisory lock!", -5560419505042474287),
        ("django-pglock", "hello", (245608543 << 32) | 3125670444),
        ("advisory-lock (npm)", "test-lock", (-107789403, -1898803861)),
        ("DistributedLock (.NET)", "0000000000000001", 1),
        ("DistributedLock (.NET)", "00000003,ffffffff", (3, -1)),
        ("DistributedLock (.NET)", "\0" * 9, (0, 0)),
        ("with_advisory_lock (Ruby)", "hello", (907060870, 0)),
        ("Symfony", "hello", 907060870),
        ("Ecto", "Ecto.Integration.AdvisoryLockPoolRepo", 129653361),
        ("Hatchet", "analyze-olap-tables", 5705964304097144966),
    ],
)
def test_the_examples_of_the_tools_themselves(
    tool: str, name: str, key: int | tuple[int, int]
) -> None:
    """What a tool's documentation or tests say of a name, our formula says, too."""
    made = [found.parts for known, found in formulas_of(name) if known.tool == tool]
    assert made == [key]


@settings(deadline=None)
@given(st.text(max_size=20))
def test_every_name_has_a_key_with_every_tool_that_takes_it(name: str) -> None:
    """No name makes a formula fail, and each key is one that PostgreSQL has."""
    for known, key in formulas_of(name, "latin-1"):
        assert not known.certain
        assert Key.from_pg(key.classid, key.objid, key.objsubid) == key
    assert len(list(formulas_of(name))) >= len(NAMED) - 3


@settings(deadline=None)
@given(st.from_regex(r"[a-z]{3,5}(?:[_-][a-z]{1,2})?[0-9]?", fullmatch=True))
def test_short_names_are_read_back(name: str) -> None:
    """A short name that DistributedLock packed into a pair is read out of it again."""
    (key,) = (k for known, k in formulas_of(name) if known.tool == "DistributedLock (.NET)")
    assert short_name(key) == name
    assert f"(name {name!r})" in str(Catalogue().identify(key.classid, key.objid, 2)[0])
