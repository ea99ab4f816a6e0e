"""Names get into the table: which, once, from wherever, and never too many."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from cli.helpers import WORKER, environment
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

from advlock import Key, _names
from advlock._plan import Refused

from .people import PATIENCE, Sync, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.helpers import Cli
    from servers import Server

    from .people import Person

    Make = Callable[..., Person]

ODD = (
    'it\'s "quoted" \\ and {braced}',
    "größer – 名前 🔒",
    "two\nlines\tand \x1b[31mred",
    " ",
    "x" * _names.LONGEST_NAME,
)
# The server's own opinion of each row.
WRONG = """
SELECT name FROM advlock.lock_name
WHERE key <> CASE scheme WHEN 'hashtext' THEN hashtext(name)::int8
                         ELSE hashtextextended(name, seed) END
"""
PROGRAM = """
import sys, advlock
with advlock.Locks(liveness=3) as locks:
    for line in sys.stdin:
        for name in line.split():
            with locks.hold(name):
                pass
"""


def test_any_name_is_recorded_with_its_key(person: Make, dsn: str, table: Table) -> None:
    """Quotes, other alphabets, control characters: `key` is what the server makes of `name`."""
    person(dsn).use(*ODD)
    table.has(*ODD)
    assert table.admin.execute(WRONG).fetchall() == []


def test_more_than_are_sent_at_once_need_no_further_use(
    person: Make, dsn: str, table: Table
) -> None:
    """A client that has become idle records the rest as well."""
    someone = person(dsn)
    for n in range(_names._MOST_AT_ONCE + 100):
        someone.client._used.note(Key.of(f"job-{n}"))
    someone.use("last")
    eventually(
        lambda: table.count() == _names._MOST_AT_ONCE + 101,
        message="all are recorded",
        within=PATIENCE,
    )


def test_it_is_the_whole_name_that_is_recorded(person: Make, dsn: str, table: Table) -> None:
    """Namespace, scheme and slot included; numbers have no names."""
    person(dsn, namespace="shop").use("nightly", 42, (1, 2))
    person(dsn, keys="hashtext").use("short")
    slots = [Key.slot("encode", n) for n in range(3)]
    person(dsn).use(*slots, Key.hashtext("ready-made"))
    table.has("shop:nightly", "short", "encode", "ready-made")
    eventually(lambda: table.count() == 6, message="three slots of one name", within=PATIENCE)
    assert table.admin.execute(WRONG).fetchall() == []


def test_a_name_too_long_for_an_index_is_left_out(person: Make, dsn: str, table: Table) -> None:
    """It locks as before, and does not keep the others from being recorded."""
    longer = "é" * (_names.LONGEST_NAME // 2) + "!"
    someone = person(dsn)
    someone.use(longer, os.urandom(32 << 10).hex(), "short")
    table.has("short")
    assert table.names() == {"short"}


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_it_is_recorded_in_the_databases_own_encoding(
    person: Make, encoded: Callable[[str], str], encoding: str
) -> None:
    """What the server shows is what was hashed."""
    dsn = encoded(encoding)
    names = {"plain", "名前" if encoding == "EUC_JP" else "größer"}
    with psycopg.connect(dsn, autocommit=True) as admin:
        table = Table(admin)
        table.make()
        admin.execute("SET client_encoding = 'UTF8'")
        someone = person(dsn)
        someone.use("plain")  # only then the encoding is known
        someone.use(*names)
        table.has(*names)
        assert admin.execute(WRONG).fetchall() == []
        someone.close()


def test_each_name_is_written_once(dsn: str, table: Table) -> None:
    """Many threads, two clients and two other processes: no row is touched again."""
    names = [f"job-{n}" for n in range(40)]
    crew = [Sync(dsn, liveness=3) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: crew[n % 2].use(*names), range(8)))
    table.has(*names)
    before = table.rows()
    processes = []
    for n in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=environment(dsn),
            stdin=subprocess.PIPE,
            text=True,
        )
        assert process.stdin
        # The one that nobody else has comes in the same batch as the others.
        print(*names, f"own-{n}", file=process.stdin, flush=True)
        processes.append(process)
    crew[0].use("own-2")
    table.has(*(f"own-{n}" for n in range(3)))
    for process in processes:
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    for one in crew:
        one.close()
    assert [row for row in table.rows() if row[0] in names] == before


def test_a_second_client_of_a_process_does_not_ask_again(dsn: str, table: Table) -> None:
    """What is recorded is remembered by the process; in another database nothing is."""
    first, second = Sync(dsn, liveness=3), Sync(dsn, liveness=3)
    first.use("common")
    table.has("common")
    # The row is there before the client has read that it is.
    eventually(lambda: first.client._used.done._when, message="told", within=PATIENCE)
    table.admin.execute("DELETE FROM advlock.lock_name")
    second.use("common", "other")
    table.has("other")
    assert table.names() == {"other"}
    first.close()
    second.close()


def test_after_a_fork_the_child_records_its_own(dsn: str, table: Table) -> None:
    """The client goes on in the child, with what the child uses."""
    someone = Sync(dsn, liveness=3)
    someone.use("parent")
    table.has("parent")
    until, enough = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(enough)
            someone.use("child")
            os.read(until, 1)
            someone.close()
            code = 0
        finally:
            os._exit(code)
    try:
        table.has("parent", "child")
    finally:
        os.close(enough)
        os.close(until)
        assert os.waitpid(pid, 0)[1] == 0
        someone.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_makes_no_difference(
    person: Make, server: Server, database: str, table: Table, mode: str
) -> None:
    """Where a transaction pins the session, what writes goes beside it; the lock stays held."""
    with bouncer(server, mode) as pooler:
        someone = person(pooler.dsn(str(conninfo_to_dict(database)["dbname"])))
        held = someone.take("held")
        someone.use("used")
        table.has("held", "used")
        held.check()
        someone.let_go(held)
        someone.close()


def test_run_records_a_name_that_its_signature_cuts(cli: Cli, dsn: str, table: Table) -> None:
    """`application_name` has 63 bytes; the table has it all."""
    name = "a-name-that-is-too-long-for-an-application-name/" + "x" * 60
    started = cli.start("run", name, "--dsn", dsn, "--", *WORKER)
    started.worker()
    table.has(name)
    started.process.terminate()
    assert started.code() == 0


# -- the table does not grow for ever --------------------------------------------------------------


_ENDED_MEANWHILE = """
import sys, psycopg
from advlock import _solo, cli

def record(self, key):
    with psycopg.connect(sys.argv[1], autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [self._wire.pgconn.backend_pid])
    whole(self, key)

whole, _solo.SoloSession.record = _solo.SoloSession.record, record
sys.exit(cli.main(["run", "--dsn", sys.argv[1], *sys.argv[2:]]))
"""


@pytest.mark.parametrize(("options", "code"), [((), 74), (("--on-lost", "continue"), 3)])
def test_a_session_that_ends_meanwhile_is_a_lost_lock(
    dsn: str, options: tuple[str, ...], code: int
) -> None:
    """The command is stopped, as after any loss, or goes on where that is wanted."""
    line = "sleep 60" if code != 3 else "exit 3"
    argv = [sys.executable, "-c", _ENDED_MEANWHILE, dsn, *options, "meanwhile", "--"]
    done = subprocess.run(
        [*argv, "sh", "-c", line], env=environment(dsn), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "lost the lock" in done.stderr


def test_what_is_in_use_is_noted_once_a_day(person: Make, dsn: str, table: Table) -> None:
    """An old row that is used is new again, and nothing else is written to it."""
    table.fill(1, days=0)
    someone = person(dsn)
    someone.use("nightly")
    table.has("nightly")
    # The row is there before the client has read that it is, and then it would book that anew.
    eventually(lambda: someone.client._used.done._when, message="told", within=PATIENCE)
    table.age(2)
    old = table.rows()
    someone.client._used.done = _names.Done()  # as another process would have it
    someone.client._known.clear()
    someone.use("nightly", "news")
    table.has("news")
    rows = {row[0]: row for row in table.rows()}
    assert rows["old 1"] == old[1]
    assert rows["nightly"][1] == old[0][1]
    assert rows["nightly"][-1] > old[0][-1]


def test_what_nobody_used_for_a_month_goes_bit_by_bit(person: Make, dsn: str, table: Table) -> None:
    """A thousand rows with each batch of new names, and not those that are younger."""
    table.fill(1500, days=31)
    table.admin.execute(
        "INSERT INTO advlock.lock_name SELECT 7, 'young', '', 0, now() - interval '29 days'"
    )
    someone = person(dsn)
    someone.use("first")
    table.has("first")
    assert table.count() == 502
    someone.use("second")
    table.has("second")
    assert table.names() == {"young", "first", "second"}


def _written(session: Any, entry: _names.Entry) -> bool:
    """Record a name; a busy machine may take longer than the 250 ms after which that is left."""
    with suppress(Refused):
        verdict = session.fetch(_names.write([entry], "UTF8", most=100), None)
        return bool(verdict == "yes")
    return False


def test_too_many_names_push_out_the_oldest(dsn: str, table: Table) -> None:
    """However many names there are, the table keeps those that were used last."""
    table.fill(2000, days=0)
    someone = Sync(dsn)
    with someone.client.hold(42) as held:
        for n in range(3):
            entry = _names.Entry(n, f"new {n}", "hashtextextended", 0)
            write = partial(_written, held._ticket.session, entry)
            eventually(write, message="recorded", within=PATIENCE)
    someone.close()
    assert table.count() == 100
    assert table.names() >= {"new 0", "new 1", "new 2", "old 1", "old 97"}
