"""`advlock ps`: every lock by its name, who holds it, who waits, and what could not be seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from advlock import _label
from advlock._key import Key

from .helpers import WORKER
from .lock_scene import pid_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .helpers import Cli
    from .lock_scene import OnTerminal, Scene, Told

    Advlock = Callable[..., Told]

pytest_plugins = ["cli.lock_fixtures"]


def named(name: str) -> str:
    """The key of a name, as a DBA types it."""
    return f"hashtextextended('{name}', 0)"


def test_a_holder_and_its_waiters_are_a_tree(scene: Scene, advlock: Advlock, name: str) -> None:
    """One line for each session: whoever waits stands under whom it waits for."""
    holder = scene.hold(named(name), f"advlock:{name} web-2:4242")
    first = scene.wait(named(name), "first")
    second = scene.wait(named(name), "second")
    told = advlock("ps")
    assert (told.code, told.err) == (0, "")
    assert [row.split()[:2] for row in told.rows] == [
        [name, "held"],
        ["├─", name],
        ["└─", name],
    ]
    assert "web-2:4242" in told.rows[0]
    for session, row in zip((holder, first, second), told.rows, strict=True):
        assert f" {pid_of(session)} " in row


def test_a_real_run_says_since_when(cli: Cli, advlock: Advlock, name: str) -> None:
    """`advlock run` signs with its process and when it got the lock."""
    started = cli.start("run", name, "--", *WORKER)
    started.worker()
    (lock,) = advlock("ps", "--json", name).json["locks"]
    (holder,) = lock["holders"]
    assert (lock["name"], lock["kind"]) == (name, "recorded")
    assert holder["process"] == started.pid
    since = datetime.fromisoformat(holder["since"])
    assert abs(datetime.now(UTC) - since) < timedelta(minutes=1)
    started.send(15)
    assert started.code() == 0


def test_since_when_is_blank_where_nobody_knows(
    scene: Scene, advlock: Advlock, number: int
) -> None:
    """A foreign session's last query is old, and says nothing about its lock."""
    scene.hold(str(number))
    told = advlock("ps", "--json").json["locks"][0]["holders"][0]
    assert told["since"] is None
    assert told["state_since"] is not None
    assert advlock("ps").rows[0].split()[5:8] == ["-", "-", "-"]


def test_json_has_everything(scene: Scene, advlock: Advlock, number: int) -> None:
    """For programs: keys as text, unsigned columns of pg_locks, times in UTC, who blocks whom."""
    holder = scene.hold(str(-number), "psql")
    waiter = scene.wait(str(-number), "other")
    seen = advlock("ps", "--json").json
    assert set(seen) == {"at", "database", "role", "locks", "hidden"}
    (lock,) = seen["locks"]
    key = Key.of(-number)
    assert lock["key"] == lock["sql"].strip("'").removesuffix("'::bigint") == str(-number)
    assert (lock["classid"], lock["objid"], lock["objsubid"]) == (key.classid, key.objid, 1)
    assert (lock["name"], lock["kind"]) == (None, "unknown")
    assert lock["holders"][0]["pid"] == pid_of(holder)
    assert lock["holders"][0]["mode"] == "exclusive"
    assert lock["holders"][0]["query"] == f"SELECT pg_advisory_lock({-number})"
    (waiting,) = lock["waiters"]
    assert (waiting["pid"], waiting["blocked_by"]) == (pid_of(waiter), [pid_of(holder)])
    assert datetime.fromisoformat(waiting["since"]).utcoffset() == timedelta(0)


@pytest.mark.parametrize("spelled", ["{}", "{0.classid}/{0.objid}/2", "({0.parts[0]}, -7)"])
def test_a_lock_is_found_by_its_key(
    scene: Scene, advlock: Advlock, number: int, spelled: str
) -> None:
    """As signed integers or as pg_locks has it; and nothing but that lock is shown."""
    key = Key.of((number % 2**31, -7))
    scene.hold(f"{key.parts[0]}, -7")  # type: ignore[index] - it is a pair
    scene.hold(str(number))
    word = f"{key.parts[0]},-7" if spelled == "{}" else spelled.format(key)
    told = advlock("ps", word)
    assert (told.code, len(told.rows)) == (0, 1)
    assert f"{key.classid}/{key.objid}/2" in told.rows[0]


@pytest.mark.parametrize("formula", ["hashtextextended('{}', 0)", "hashtext('{}')"])
def test_a_lock_is_found_by_its_name(
    scene: Scene, advlock: Advlock, name: str, formula: str
) -> None:
    """By either formula, though nobody has recorded the name; and it is called by it."""
    scene.hold(formula.format(name))
    (row,) = advlock("ps", name).rows
    assert row.split()[:2] == [name, "held"]
    assert advlock("ps").rows[0].split()[0] != name


def test_digits_may_be_a_name(scene: Scene, advlock: Advlock, number: int) -> None:
    """`advlock run 42` locks the text, and SQL the number: neither is free while it is held."""
    scene.hold(f"hashtextextended('{number}', 0)")
    (lock,) = advlock("ps", "--json", str(number)).json["locks"]
    assert lock["name"] == str(number)
    scene.hold(str(number))
    locks = advlock("ps", "--json", str(number)).json["locks"]
    assert {lock["name"] for lock in locks} == {str(number), None}


def test_a_lock_that_nobody_holds_is_free(scene: Scene, advlock: Advlock, name: str) -> None:
    """Like pgrep: 1 when none of what was named is there, and stderr says so."""
    scene.hold("42")
    told = advlock("ps", name)
    assert (told.code, told.out) == (1, "")
    assert told.err == f"advlock: {name} is free: nobody holds it, and nobody waits for it\n"
    told = advlock("ps", "--json", name)
    assert (told.code, told.json["locks"]) == (1, [])
    both = advlock("ps", name, "42")
    assert (both.code, len(both.rows)) == (0, 1)


def test_without_locks_there_is_nothing_on_stdout(advlock: Advlock) -> None:
    """An idle server is no failure."""
    told = advlock("ps")
    assert (told.code, told.out) == (0, "")
    assert "no advisory locks" in told.err


def test_only_what_is_waited_for(scene: Scene, advlock: Advlock, number: int) -> None:
    """`--waiting` leaves out the locks that nobody waits for."""
    scene.hold("42")
    scene.hold(str(number))
    scene.wait(str(number))
    told = advlock("ps", "--waiting", "--json")
    assert [lock["key"] for lock in told.json["locks"]] == [str(number)]


def test_only_mine(scene: Scene, advlock: Advlock, number: int, dsn: str) -> None:
    """`--mine` are the locks with which a session of the role that asks has to do."""
    role = scene.role()
    scene.hold("42")
    scene.hold(str(number))
    scene.wait(str(number), user=role)
    told = advlock("ps", "--mine", "--json", dsn=make_conninfo(dsn, user=role))
    assert [lock["key"] for lock in told.json["locks"]] == [str(number)]


def test_other_databases(scene: Scene, advlock: Advlock, number: int) -> None:
    """Locks elsewhere are shown when asked for, each with its database, and never as ours."""
    scene.hold(str(number), dbname="postgres")
    assert advlock("ps", str(number)).code == 1
    (lock,) = advlock("ps", "--all-databases", "--json", str(number)).json["locks"]
    assert lock["database"] == "postgres"
    heads, row = advlock("ps", "--all-databases", str(number)).out.splitlines()
    assert "DATABASE" in heads
    assert " postgres " in row


def test_the_registry_names_locks(
    scene: Scene, advlock: Advlock, name: str, number: int, tmp_path: Path
) -> None:
    """The nearest advlock.toml, or the file of --registry, says what a key is called."""
    text = f'[locks]\n{name} = {{description = "bills", owner = "ann"}}\nfix = {{key = {number}}}\n'
    (tmp_path / "advlock.toml").write_text(f'{text}"user:{{id}}" = "one user"\n')
    scene.hold(named(name))
    scene.hold(str(number))
    scene.hold(named("user:7"), f"advlock:user:7 {_label.make().removeprefix('advlock ')}")
    locks = {lock["name"]: lock for lock in advlock("ps", "--json").json["locks"]}
    assert {name, "fix", "user:7"} == set(locks)
    assert locks[name]["kind"] == "registered"
    assert (locks[name]["description"], locks[name]["owner"]) == ("bills", "ann")
    assert [row.split()[0] for row in advlock("ps", "fix").rows] == ["fix"]
    assert [row.split()[0] for row in advlock("ps", "user:{id}").rows] == ["user:7"]
    (tmp_path / "advlock.toml").rename(tmp_path / "names.toml")
    assert name in advlock("ps", "--registry", "names.toml").out
    assert advlock("ps", "--registry", "nope.toml").code == 78


def test_foreign_text_cannot_touch_the_terminal(
    scene: Scene, advlock: Advlock, number: int, on_terminal: Callable[..., OnTerminal]
) -> None:
    """A role's name, and what else others have chosen, may contain anything."""
    evil = f"evil\x1b[2J\u202e\n{number}"
    role = scene.role(evil)
    session = scene.hold(str(number), user=role)
    session.execute("SELECT 'query\x1b[31m\x07'")
    told = advlock("ps")
    assert r"evil\x1b[2J\u202e\n" in told.out
    assert "\x1b" not in told.out
    why = advlock("why", str(number))
    assert "\x1b" not in why.out + why.err
    assert r"query\x1b[31m\x07" in "".join(why.out.split("\n"))
    shown = advlock("kill", str(number))
    assert "\x1b" not in shown.out + shown.err
    terminal = on_terminal("ps", columns=200)
    assert terminal.code() == 0
    assert "\x1b[2J" not in terminal.seen
    assert r"evil\x1b[2J" in terminal.seen


def test_what_a_role_may_not_see_is_said(
    scene: Scene, advlock: Advlock, number: int, dsn: str
) -> None:
    """Everybody sees the locks; where sessions come from and what they do is for pg_monitor."""
    scene.hold(str(number))
    role = scene.role()
    weak = make_conninfo(dsn, user=role)
    told = advlock("ps", dsn=weak)
    assert (told.code, len(told.rows)) == (0, 1)
    assert f"GRANT pg_monitor TO {role}" in told.err
    seen = advlock("ps", "--json", dsn=weak).json
    assert any("pg_monitor" in sentence for sentence in seen["hidden"])
    assert seen["locks"][0]["holders"][0]["query"] is None
    scene.admin.execute(f"GRANT pg_monitor TO {role}")
    # Another test may have made advlock's tables in this database; those are somebody else's.
    told = advlock("ps", dsn=weak).err.splitlines()
    assert [line for line in told if "GRANT USAGE ON SCHEMA advlock" not in line] == []


def test_a_terminal_gets_what_fits(
    scene: Scene, name: str, on_terminal: Callable[..., OnTerminal]
) -> None:
    """At 80 columns no line is broken; the heads are bold, what waits is dim."""
    scene.hold(named(name), f"advlock:{name} a-host-with-a-long-name:4242")
    scene.wait(named(name), "x" * 60)
    terminal = on_terminal("ps")
    assert terminal.code() == 0
    lines = [click.unstyle(line) for line in terminal.seen.splitlines()]
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:2] == ["NAME", "STATE"]
    assert "\x1b[1m" in terminal.seen


def test_colours_can_be_switched_off(
    scene: Scene, number: int, on_terminal: Callable[..., OnTerminal]
) -> None:
    """NO_COLOR is honoured."""
    scene.hold(str(number))
    terminal = on_terminal("ps", more={"NO_COLOR": "1"})
    assert terminal.code() == 0
    assert "NAME" in terminal.seen
    assert "\x1b[" not in terminal.seen


def test_a_tree_is_drawn_in_ascii_where_it_must_be(scene: Scene, cli: Cli, number: int) -> None:
    """A stdout that cannot express the lines gets other ones."""
    scene.hold(str(number))
    scene.wait(str(number))
    env = cli.env | {"PYTHONIOENCODING": "ascii"}
    code, out, err = cli("ps", env=env)
    assert (code, err) == (0, "")
    assert out.splitlines()[2].startswith(f"`- {number}")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["ps", "--dsn", "host=/nonexistent"], 69, "cannot"),
        (["ps", "--watch", "0.1"], 64, "the least is 0.2"),
        (["ps", "--watch=soon"], 64, "no duration"),
        (["ps", "--nope"], 64, "--nope"),
        (["ps", "--dsn", "x=", "--local"], 64, "exclude"),
        (["ps", "\udcff"], 64, "UTF-8"),
    ],
)
def test_what_cannot_work_is_refused(
    advlock: Advlock, arguments: list[str], code: int, word: str
) -> None:
    """Each with its exit code and a sentence."""
    told = advlock(*arguments)
    assert told.code == code
    assert word in told.err


def test_an_old_connection_is_no_lock(advlock: Advlock, dsn: str) -> None:
    """Our own session, which looks, holds nothing and is not shown."""
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(7); SELECT pg_advisory_unlock(7)")
        assert advlock("ps").out == ""
