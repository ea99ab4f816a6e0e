"""What the catalogue says of a key, and when it says nothing."""

from __future__ import annotations

import functools
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advlock import Key
from advlock._catalogue._catalogue import Catalogue, formulas_of
from advlock._catalogue._entries import ENTRIES
from advlock._catalogue._entry import Fixed, Known, PerRow
from advlock._catalogue._facts import _NAMES, Facts, Table

MANY = Facts(
    "app",
    schemas=("public", "sales", 'odd "schema"'),
    tables=tuple(Table(16384 + n, "public", name) for n, name in enumerate(_NAMES)),
    extensions=frozenset({"citus", "pg_partman", "timescaledb"}),
)
# Tables of tools whose keys may be any small number: with them there is always something to guess.
SMALL = {"que_jobs", "global_states_id_seq", "v1_step_concurrency", "oban_jobs"}


catalogue_of = functools.cache(Catalogue)


def identify(facts: Facts | None, key: object) -> tuple[Known, ...]:
    """Ask about a key as it is written in SQL."""
    made = Key.of(key)  # type: ignore[arg-type]
    return catalogue_of(facts).identify(made.classid, made.objid, made.objsubid)


def having(*names: str) -> Facts:
    """Facts with these tables."""
    tables = tuple(Table(16384 + n, "public", name) for n, name in enumerate(names))
    return Facts("app", schemas=("public",), tables=tables)


def test_every_entry_says_where_it_was_read() -> None:
    """Each has a tool, a meaning, and a file of a repository at a commit."""
    for entry in ENTRIES:
        assert entry.tool, entry
        assert entry.meaning, entry
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{7,9}:\S+", entry.source), entry.source
    assert len({(e.kind, e.tool, e.key, e.meaning) for e in ENTRIES}) == len(ENTRIES)


def test_there_is_something_of_every_kind() -> None:
    """The table is not cut short by an accident."""
    kinds = Counter(entry.kind for entry in ENTRIES)
    assert kinds["fixed"] >= 50
    assert kinds["computed"] >= 15
    assert kinds["per row"] >= 13
    assert kinds["by name"] >= 13
    assert kinds["by objsubid"] == 13
    assert len({entry.tool for entry in ENTRIES}) >= 50


@pytest.mark.parametrize("entry", [e for e in ENTRIES if isinstance(e, Fixed)], ids=str)
def test_every_fixed_key_is_found_with_and_without_a_database(entry: Fixed) -> None:
    """Its own tool is among the answers, with facts and without."""
    for facts in (None, MANY, having()):
        found = identify(facts, entry.value)
        assert (entry.tool, entry.meaning) in [(known.tool, known.meaning) for known in found]


def test_a_key_of_many_tools_is_one_of_them() -> None:
    """Key 1 is claimed by five tools; nobody can say whose it is, and no one is said to."""
    found = identify(None, 1)
    assert {known.tool for known in found} == {
        "Apache Airflow",
        "Mage",
        "SpiceDB",
        "Coder",
        "graph-node",
    }
    assert not any(known.certain for known in found)


def test_the_tool_whose_tables_are_here_comes_first() -> None:
    """Where SpiceDB's tables are, key 1 is SpiceDB's, and the others are still told."""
    first, *others = identify(having("relation_tuple"), 1)
    assert (first.tool, first.certain) == ("SpiceDB", True)
    assert len(others) == 4
    assert not any(known.certain for known in others)


def test_a_number_that_anybody_could_choose_is_not_certain() -> None:
    """1000 and 1234567890 are not beyond doubt without authentik's and DBOS's tables."""
    assert [known.certain for known in identify(having(), 1000)] == [False]
    assert [known.certain for known in identify(having(), 1234567890)] == [False]
    assert [known.certain for known in identify(having("authentik_core_user"), 1000)] == [True]
    assert [known.certain for known in identify(having(), 72707369)] == [True]


def test_a_tool_is_named_before_its_first_table() -> None:
    """The first migration takes the lock before it makes a table: the usual names are tried."""
    facts = Facts("app", schemas=("public",))
    for tool, key in (("Flyway", 77433833903597), ("OpenTofu", -3797183428)):
        (known,) = identify(facts, key)
        assert (known.tool, known.certain) == (tool, True)
    (known,) = identify(facts, (-755096828, -977423767))
    assert known.tool == "liquibase-sessionlock"


COUNTLESS = having(*(name for name in _NAMES if name not in SMALL and "migrations" not in name))


def is_claimed(facts: Facts | None, value: int) -> bool:
    """Tell whether a bigint is one that was computed beforehand, or in Flyway's family."""
    key = Key.of(value)
    columns = (key.classid, key.objid, key.objsubid)
    return columns in catalogue_of(facts)._exact or abs(value - 77431708279161) < 1 << 32


@settings(deadline=None)
@given(st.integers(-(1 << 63), (1 << 63) - 1).filter(lambda value: abs(value) >= 1 << 42))
def test_an_unknown_bigint_stays_unknown(value: int) -> None:
    """Of a random number of 64 bits nothing is said, whatever tools' tables are here."""
    for facts in (MANY, None):
        assert is_claimed(facts, value) or identify(facts, value) == ()


@settings(deadline=None)
@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_small_numbers_are_guessed_only_where_the_tool_is(value: int) -> None:
    """Where no tool counts its rows in keys, a number is known or it is nothing."""
    for key in (value, value % 1000, value % (1 << 40)):
        assert is_claimed(COUNTLESS, key) or identify(COUNTLESS, key) == ()


def test_random_pairs_are_hardly_ever_taken_for_a_name() -> None:
    """Of 50 000 random pairs at most two spell something that looks like a name."""
    chance, catalogue = random.Random(6), Catalogue(MANY)  # noqa: S311 - nothing to be kept secret
    taken = [
        catalogue.identify(chance.getrandbits(32), chance.getrandbits(32), 2) for _ in range(50_000)
    ]
    assert sum(map(bool, taken)) <= 2


@pytest.mark.parametrize("key", [0, 7, 42, (0, 0), (1, 2), (7, 42), (2, 2), -2, 123456789])
def test_anybody_s_small_numbers_are_nobody_s(key: object) -> None:
    """In a database of no tool's, small keys that no tool has claimed are unknown."""
    claimed = {known.tool for known in identify(having(), key)}
    assert claimed <= {"Coder"}  # which has 1 to 10


def test_a_random_crc_is_not_taken_for_a_migration() -> None:
    """Keys of 32 bits are found when they are right, and only then."""
    facts = Facts("app", schemas=tuple(f"s{n}" for n in range(1000)))
    catalogue, chance = Catalogue(facts), random.Random(7)  # noqa: S311 - likewise
    assert not any(catalogue.identify(0, chance.getrandbits(32), 1) for _ in range(10_000))


# -- numbers of rows and tables --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "text"),
    [
        ("que_jobs", 4711, "Que: a running job (row 4711)"),
        ("global_states_id_seq", 3, "Terraform or OpenTofu: state of a workspace (row 3)"),
        ("deployment_schemas", (2, 9), "graph-node: work on a subgraph (write to deployment 9)"),
        ("resource_configs", (1, 88), "Concourse: its own work (build 88)"),
        ("resource_configs", (7, 5), "Concourse: its own work (scheduling of job 5)"),
        (
            "v1_step_concurrency",
            1000000000007,
            "Hatchet: concurrency of a strategy (parent strategy 7)",
        ),
        (
            "v1_step_concurrency",
            5000012,
            "Hatchet: concurrency of a strategy (strategy 5, workflow 12)",
        ),
        ("oban_jobs", 200000000, "Oban: insertion of a unique job (perhaps, by its range)"),
    ],
)
def test_rows_are_guessed_where_the_table_is(table: str, key: object, text: str) -> None:
    """With its table a tool's number is a guess that says so; without, it is nothing."""
    guesses = [known for known in identify(having(table), key) if str(known) == text]
    assert [known.certain for known in guesses] == [False]
    assert text not in map(str, identify(having(), key))


def test_ecto_is_told_from_the_others_that_call_their_table_the_same() -> None:
    """`schema_migrations` is Ecto's if it has `inserted_at`; test_helper.exs has this key."""
    ecto = Table(1, "public", "schema_migrations", columns=("inserted_at",))
    rails = Table(1, "public", "schema_migrations")
    of_ecto, of_rails = (Facts("app", tables=(table,)) for table in (ecto, rails))
    assert [known.tool for known in identify(of_ecto, 129653361)] == ["Ecto"]
    assert identify(of_rails, 129653361) == ()


@pytest.mark.parametrize("called", ["my_app", "my_app_dev", "my_app_test3", "my_app_prod"])
def test_ecto_s_repo_is_guessed_from_the_database_s_name(called: str) -> None:
    """Phoenix calls the databases of MyApp.Repo so; any Ecto lock looks like that of some repo."""
    (key,) = (k for known, k in formulas_of("MyApp.Repo") if known.tool == "Ecto")
    (known,) = identify(Facts(called), key)
    assert (known.tool, known.certain) == ("Ecto", True)
    assert "MyApp.Repo" in known.meaning
    assert identify(Facts("another"), key) == ()


def test_pg_repack_names_the_table_also_of_a_great_oid() -> None:
    """An oid beyond 2^31 has no sign left; a table that is not in sight is called by its oid."""
    facts = Facts("app", tables=(Table(4294967295, "public", "orders"),))
    (known,) = identify(facts, (16185446, 4294967295 - (1 << 31)))
    assert (str(known), known.certain) == ("pg_repack: pg_repack (table public.orders)", True)
    (known,) = identify(facts, (16185446, -2147467264))
    assert not known.certain
    assert "oid 16384" in str(known)


def test_commanded_is_known_by_its_tables_oid() -> None:
    """The first half is the oid of a table called subscriptions, in a schema with an event log."""
    tables = Table(20001, "es", "subscriptions"), Table(20002, "es", "stream_events")
    (known,) = identify(Facts("app", tables=tables), (20001, 6))
    assert (known.tool, known.certain) == ("Commanded EventStore", True)
    assert "row 6 of es.subscriptions" in str(known)
    (known,) = identify(Facts("app", tables=tables[:1]), (20001, 6))
    assert not known.certain
    assert identify(Facts("app", tables=tables), (20002, 6)) == ()


def test_a_flyway_table_that_is_not_in_sight() -> None:
    """flyway#1654 has the key of a table that it does not name: the family is known."""
    (known,) = identify(having(), 77431133147203)
    assert (known.tool, known.certain) == ("Flyway", False)


def test_sourcegraph_by_its_namespace() -> None:
    """The first half is a hash of a namespace, the second a number."""
    (known,) = identify(None, (1460082208, 1))
    assert str(known) == "Sourcegraph: lock of one of its namespaces (autoupgrade 1)"


# -- extensions ------------------------------------------------------------------------------------


def test_locks_of_extensions_are_known_by_objsubid() -> None:
    """Citus has 4 to 16, TimescaleDB 29749; certain where the extension is."""
    (known,) = Catalogue().identify(1, 2, 5)
    assert (str(known), known.certain) == (f"Citus: a shard (shard {(1 << 32) + 2})", False)
    (known,) = Catalogue(MANY).identify(0, 1, 9)
    assert (known.certain, str(known)) == (
        True,
        "Citus: an operation (non-blocking split of a shard)",
    )
    (known,) = Catalogue(MANY).identify(1001, 0, 29749)
    assert str(known) == "TimescaleDB: background job, up to version 2.25 (job 1001)"
    assert Catalogue(MANY).identify(1, 2, 11) == ()
    assert Catalogue(MANY).identify(1, 2, 3) == ()


# -- other databases -------------------------------------------------------------------------------


def test_another_database_s_lock_is_another_lock() -> None:
    """Rails' key of one database means nothing in another one."""
    key = Key.of(2053462845 * 0x2F4B7B1A)
    names = ("app", "shop")
    ours, theirs = ({Key.from_pg(*c) for c in Catalogue.elsewhere(name)._exact} for name in names)
    assert key not in ours | theirs
    for name in names:
        catalogue = Catalogue.elsewhere(name)
        (rails,) = (
            Key.from_pg(*columns)
            for columns, known in catalogue._exact.items()
            if known[0].tool == "Rails"
        )
        assert [k.tool for k in identify(Facts(name), rails)] == ["Rails"]
        other = next(n for n in names if n != name)
        assert identify(Facts(other), rails) == ()


def test_guesses_without_traces_need_a_strong_sign() -> None:
    """Only entries whose key has 31 bits or more of their own are tried in every database."""
    free = {e.tool for e in ENTRIES if isinstance(e, PerRow) and not e.traces}
    assert free == {
        "pg_repack",
        "pg_partman",
        "Commanded EventStore",
        "Sourcegraph",
        "Flyway",
        "DistributedLock (.NET)",
    }
