"""`advlock once`: one process runs the command, the others wait; who comes later runs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import uuid
from typing import TYPE_CHECKING, Any

from bouncers import bouncer
from conformance.databases import connect, fresh_database, plain_role
from waiting import eventually

from advlock import Locks, _dsn, _schema
from advlock._once import _sql
from advlock._once._done import Run
from advlock._solo import SoloSession
from advlock.cli import _once_run, main
from advlock.cli.exits import Exit

from .helpers import PATIENCE, WORKER, Cli, sessions

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from psycopg import Connection
    from servers import Server

    Admin = Connection[Any]

SAY = [sys.executable, "-S", "-E", "-c", "print('ran')"]
SQL = """
import os, psycopg
with psycopg.connect(os.environ["ADVLOCK_DSN"]) as session:
    session.execute("{}", [os.environ["ADVLOCK_NAME"]])
"""
EVIL = """
CREATE SCHEMA evil;
CREATE TABLE evil.seen (query text);
CREATE FUNCTION evil.f(text, text) RETURNS bool LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO evil.seen VALUES (current_query()); RETURN true; END $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.f);
CREATE FUNCTION evil.f(int, int) RETURNS bool LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO evil.seen VALUES (current_query()); RETURN true; END $$;
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.f);
CREATE OPERATOR evil.<> (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.f);
"""
DONE = "SELECT done_at IS NOT NULL FROM advlock.once WHERE name = %s"


def recorded(admin: Admin, name: str) -> bool:
    """Whether it is recorded as done."""
    row = admin.execute(DONE, [name]).fetchone()
    return bool(row and row[0])


def test_it_runs_once(cli: Cli, name: str) -> None:
    """The first runs the command; whoever comes later says so in one line, and exits with 0."""
    assert cli("once", name, "--", *SAY) == (0, "ran\n", "")
    code, out, err = cli("once", name, "--", *SAY)
    assert (code, out) == (0, "")
    assert err.startswith(f"advlock: {name!r} was done at ")
    assert err.count("\n") == 1


def test_it_is_the_library_s_record(cli: Cli, name: str, dsn: str) -> None:
    """What one does, the other need not do."""
    with Locks(dsn) as locks:
        with locks.once(name) as todo:
            assert todo
        assert cli("once", "-q", name, "--", *SAY) == (0, "", "")
        assert cli("once", f"{name}-2", "--", *SAY)[:2] == (0, "ran\n")
        with locks.once(f"{name}-2") as todo:
            assert not todo


def test_a_failure_is_run_again(cli: Cli, name: str) -> None:
    """The command's own exit code, and nothing is recorded; nor where there is no command."""
    assert cli("once", name, "--", "sh", "-c", "exit 3") == (3, "", "")
    assert cli("once", name, "--", f"no-such-{name}")[0] == Exit.NOT_FOUND
    late = cli("once", "--max-runtime", "100ms", "-k", "5s", name, "--", "sleep", "60")
    assert late[0] == Exit.TIMED_OUT
    assert cli("once", name, "--", *SAY)[:2] == (0, "ran\n")


def test_a_window(cli: Cli, name: str, admin: Admin) -> None:
    """Within it nothing is run; afterwards, it is."""
    assert cli("once", "--per", "1h", name, "--", *SAY)[1] == "ran\n"
    assert cli("once", "--per", "1h", name, "--", *SAY)[1] == ""
    admin.execute(
        "UPDATE advlock.once SET started_at = started_at - interval '1 h' WHERE name = %s", [name]
    )
    assert cli("once", "--per", "1h", name, "--", *SAY)[1] == "ran\n"


def test_others_wait_until_it_is_done(cli: Cli, name: str, admin: Admin) -> None:
    """Three at a time: one command; and the others end when that is through, with 0."""
    first = cli.start("once", name, "--", *WORKER)
    pid = first.worker()
    others = [cli.start("once", name, "--", *SAY) for _ in range(2)]
    eventually(lambda: len(sessions(admin, f"once:{name}", granted=False)) == 2, within=PATIENCE)
    assert not recorded(admin, name)
    os.kill(pid, signal.SIGKILL)
    assert first.code() == 128 + 9
    # It has failed: one of those who wait does it, and the other is told.
    outcomes = sorted(other.process.communicate(timeout=PATIENCE)[0] for other in others)
    assert outcomes == [b"", b"ran\n"]
    assert [other.process.returncode for other in others] == [0, 0]


def test_who_does_not_wait_is_told_who_is_at_it(cli: Cli, name: str, dsn: str) -> None:
    """-n and -w: exit code 75, or that of -E, and a line that says who."""
    with Locks(dsn) as locks, locks.once(name):
        for flags, code in (
            (["-n"], Exit.BUSY),
            (["-q", "-w", "100ms", "-E", "9"], 9),
        ):
            told = cli("once", *flags, name, "--", *SAY)
            assert told[:2] == (code, "")
            assert (f"skipped 'once:{name}': held by" in told[2]) is (flags[0] == "-n")


def test_a_lost_lock_stops_the_command(cli: Cli, name: str, admin: Admin) -> None:
    """TERM, exit code 74, and nothing is recorded."""
    running = cli.start("once", name, "--", *WORKER)
    running.worker()
    admin.execute("SELECT pg_terminate_backend(%s)", sessions(admin, f"once:{name}"))
    assert running.code() == Exit.LOST
    assert f"lost the lock 'once:{name}'" in running.stderr()
    assert not recorded(admin, name)


def test_kill_9_of_the_wrapper_keeps_the_lock(cli: Cli, name: str, admin: Admin) -> None:
    """The command runs on with the lock; nobody is left to record it, so it is run again."""
    running = cli.start("once", name, "--", *WORKER)
    pid = running.worker()
    running.send(signal.SIGKILL)
    assert running.code() == -signal.SIGKILL
    assert cli("once", "-n", name, "--", *SAY)[:2] == (Exit.BUSY, "")
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not sessions(admin, f"once:{name}"), within=PATIENCE)
    assert not recorded(admin, name)
    assert cli("once", name, "--", *SAY)[1] == "ran\n"


def test_what_was_overtaken_is_not_recorded(cli: Cli, name: str, admin: Admin) -> None:
    """The command ended well, but the row says that somebody else has begun: exit code 74."""
    code = SQL.format("UPDATE advlock.once SET run_id = gen_random_uuid() WHERE name = %s")
    told = cli("once", name, "--", sys.executable, "-c", code)
    assert told[0] == Exit.LOST, told
    assert "the command has ended well, but" in told[2]
    assert "somebody else has begun" in told[2]
    assert not recorded(admin, name)


def test_a_session_that_ends_with_the_command_is_told(cli: Cli, name: str, admin: Admin) -> None:
    """Whether that is recorded is not certain, or certainly not; never: it is done."""
    end = SQL.format(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE granted AND objid ="
        " (hashtextextended('once:' || %s, 0) & 4294967295)::oid"
    )
    told = cli("once", name, "--", sys.executable, "-c", end)
    assert told[0] == Exit.LOST, told
    assert not recorded(admin, name)


def test_the_command_sees_its_run(cli: Cli, name: str, admin: Admin) -> None:
    """The environment has the name, the key, the token and the run that the row has."""
    show = "import os; print(*(os.environ['ADVLOCK_' + x] for x in ('NAME', 'TOKEN', 'RUN_ID')))"
    out = cli("once", name, "--", sys.executable, "-c", show)[1].split()
    row = admin.execute(
        "SELECT name, done_token, run_id FROM advlock.once WHERE name = %s", [name]
    ).fetchone()
    assert out == [str(column) for column in row or ()]


def asked(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """What `advlock once WORDS` tells that runs no command; in this process."""
    code = main(["once", *words])
    return code, *capfd.readouterr()


def test_list_and_forget(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """What was done, what is being done, what came to no end; and how to have it done again."""
    with fresh_database(server) as dsn, Locks(dsn) as locks:
        here = ("--dsn", dsn)
        nothing = "advlock: nothing is recorded as done once\n"
        assert asked(capfd, "--list", *here) == (0, "", nothing)
        assert asked(capfd, "--list", "--json", *here)[:2] == (0, "[]\n")
        unknown = "advlock: nothing is known of 'a'\n"
        assert asked(capfd, "--forget", "a", *here) == (0, "", unknown)
        for name, per in (("a", None), ("b\x1b[31m", "24h")):
            with locks.once(name, per=per) as todo:
                assert todo
        with contextlib.suppress(ZeroDivisionError), locks.once("c"):
            raise ZeroDivisionError
        with locks.once("d"):
            code, out, _ = asked(capfd, "--list", *here)
            found = json.loads(asked(capfd, "--list", "--json", *here)[1])
            assert asked(capfd, "--forget", "d", *here)[0] == Exit.BUSY
        assert code == 0
        assert "\x1b" not in out
        lines = [line.split() for line in out.splitlines()[1:]]
        expected = {"a": "done", "b\\x1b[31m": "done", "c": "unfinished", "d": "running"}
        assert {line[0]: line[1] for line in lines} == expected
        assert [row["state"] for row in found] == [*expected.values()]
        a, b, c, _ = found
        assert a["done"]["token"] == a["token"]
        assert a["again_after"] is None
        assert b["per"] == 86_400
        assert b["again_after"] > b["done"]["done_at"]
        assert c["done"] is None
        forgotten = "advlock: forgot that 'a' was done\n"
        assert asked(capfd, "--forget", "a", *here) == (0, "", forgotten)
        with locks.once("a") as todo:
            assert todo


def test_a_namespace_of_the_registry_is_in_front(
    server: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """Of the lock and of the row, as with the library's client; --forget takes the name without."""
    (tmp_path / "advlock.toml").write_text('namespace = "billing"\n\n[locks]\n')
    monkeypatch.chdir(tmp_path)
    with fresh_database(server) as dsn, Locks(dsn, registry=True) as locks:
        started = Cli(dsn)
        assert started("once", "x", "--", *SAY, cwd=tmp_path)[:2] == (0, "ran\n")
        code, out, err = started("once", "x", "--", *SAY, cwd=tmp_path)
        assert (code, out) == (0, "")
        assert err.startswith("advlock: 'billing:x' was done at ")
        with locks.once("x") as todo:
            assert not todo
        with connect(dsn) as admin, Locks(dsn) as plain:
            assert recorded(admin, "billing:x")
            with plain.hold("billing:once:y"):
                assert started("once", "-n", "y", "--", *SAY, cwd=tmp_path)[0] == Exit.BUSY
        here = ("--dsn", dsn)
        assert json.loads(asked(capfd, "--list", "--json", *here)[1])[0]["name"] == "billing:x"
        told = asked(capfd, "--forget", "billing:x", *here)
        assert told == (0, "", "advlock: nothing is known of 'billing:billing:x'\n")
        told = asked(capfd, "--forget", "x", *here)
        assert told == (0, "", "advlock: forgot that 'billing:x' was done\n")
        with locks.once("x") as todo:
            assert todo
        started.close()


def test_a_forgotten_row_stays_with_who_is_at_it(
    name: str, dsn: str, admin: Admin, capfd: pytest.CaptureFixture[str]
) -> None:
    """--forget is refused while a transaction does it, too; and says who that is."""
    with Locks(dsn) as locks, connect(dsn) as conn, conn.transaction():
        with locks.once(name, connection=conn) as todo:
            assert todo
        told = asked(capfd, "--forget", name, "--dsn", dsn)
        assert told[0] == Exit.BUSY
        assert f"somebody is at {name!r}" in told[2]
        assert "bystander" in told[2]
    assert recorded(admin, name)


def test_what_a_row_says_does_not_command_the_terminal(
    cli: Cli, name: str, dsn: str, admin: Admin
) -> None:
    """Whoever may write to the table says on which host it was done."""
    with Locks(dsn) as locks, locks.once(name):
        pass
    admin.execute("UPDATE advlock.once SET done_host = E'\\x1b[31m\\nx' WHERE name = %s", [name])
    err = cli("once", name, "--", *SAY)[2]
    assert err.count("\n") == 1
    assert "by \\x1b[31m\\nx pid" in err


def test_a_table_that_stays_locked_is_told(
    name: str,
    dsn: str,
    admin: Admin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command has ended well and nothing is in doubt: it is not on record, and why."""
    with Locks(dsn) as locks, locks.once(name):
        pass
    monkeypatch.setattr(_sql, "HASTE", _sql.HASTE.replace("1s", "10ms"))
    session = SoloSession.open(_dsn.resolve(dsn), application_name="x", deadline=None)
    with admin.transaction():
        admin.execute("LOCK TABLE advlock.once IN ACCESS EXCLUSIVE MODE")
        run, said = Run(name, 1, str(uuid.uuid4())), []
        assert _once_run._recorded(session, run, said.append) == Exit.LOST
    session.discard()
    (err,) = said
    assert f"{name!r} is not recorded as done: the table advlock.once is locked" in err
    assert "may or may not" not in err


def test_no_operator_of_the_database_s_owner_runs_behind_a_pooler(server: Server) -> None:
    """There the search_path is what he likes, in whatever transaction a statement begins."""
    with fresh_database(server) as dsn, connect(dsn) as admin:
        admin.execute(EVIL)
        database = admin.info.dbname
        admin.execute(f"ALTER DATABASE {database} SET search_path = evil, pg_catalog".encode())
        with bouncer(server, "transaction") as pooler, Locks(pooler.dsn(database)) as locks:
            for expected in (True, False):
                with locks.once("x", per="1h") as todo:
                    assert bool(todo) is expected
        seen = admin.execute("SELECT query FROM evil.seen").fetchall()
        assert seen == []
        with connect(dsn) as control:
            control.execute("SELECT 'x'::text = 'y'::text, 1 <> 2")
        found = admin.execute("SELECT pg_catalog.count(*) FROM evil.seen").fetchone()
        assert found == (2,)


def test_a_role_without_rights_is_told_before(
    cli: Cli, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    """78, and what to type; the command is not run."""
    with fresh_database(server) as dsn, plain_role(dsn) as (role, theirs):
        cli.env["ADVLOCK_DSN"] = theirs
        code, out, err = cli("once", "x", "--", *SAY)
        assert (code, out) == (Exit.CONFIG, "")
        assert "advlock init --sql --role" in err
        with connect(dsn) as admin:
            admin.execute(_schema.text(role).encode())
        assert cli("once", "x", "--", *SAY)[:2] == (0, "ran\n")
        assert asked(capfd, "--forget", "x", "--dsn", theirs)[0] == 0
