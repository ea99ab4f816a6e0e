"""Sessions that carry one lock say so, in `application_name`: who waits, who holds, since when."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from cli.helpers import WORKER
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import eventually

from advlock import Key, _label

from .people import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cli.helpers import Cli
    from psycopg import Connection
    from servers import Server

    from advlock._key import Name
    from advlock._label import Label

    from .people import Person

    Make = Callable[..., Person]

# One after the other: in a join the names may be read before the locks, and be those from before.
SIGNED = "SELECT application_name FROM pg_stat_activity WHERE pid = %s"
CONCERNED = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted = %s AND classid = %s AND objid = %s AND objsubid = %s
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def signed(admin: Connection[Any], key: Key, *, granted: bool) -> str:
    """How the only session signs that waits for a key, or holds it."""

    def concerned() -> list[Any]:
        where = (granted, key.classid, key.objid, key.objsubid)
        return admin.execute(CONCERNED, where).fetchall()

    ((pid,),) = eventually(concerned, within=PATIENCE)
    ((application,),) = admin.execute(SIGNED, [pid]).fetchall()
    return str(application)


def label(admin: Connection[Any], key: Key, *, granted: bool) -> Label:
    """The same, read."""
    read = _label.parse(signed(admin, key, granted=granted))
    assert read is not None
    return read


@pytest.fixture
def rival(database: str) -> Iterator[Connection[Any]]:
    """Somebody else, who holds what is waited for."""
    with psycopg.connect(database, autocommit=True, application_name="rival") as connection:
        yield connection


@pytest.mark.parametrize("name", ["nightly", 42, (1, -2)], ids=str)
def test_a_waiter_signs_and_then_a_holder(
    person: Make, dsn: str, admin: Connection[Any], rival: Connection[Any], name: Name
) -> None:
    """Which lock, since when it waits, and then since when it holds, as `Held.since` has it."""
    key = Key.of(name, namespace="shop")
    lock = "(%s, %s)" if key.pair else "(%s)"
    arguments = key.parts if isinstance(key.parts, tuple) else (key.value,)
    rival.execute(f"SELECT pg_advisory_lock{lock}", arguments)
    someone = person(dsn, namespace="shop")
    before = int(time.time())
    got: list[Any] = []
    waiter = someone.begin_to_take(name, got)
    waits = label(admin, key, granted=False)
    assert (waits.name, waits.pid) == (_label.name_of(key), os.getpid())
    assert waits.complete
    assert waits.since is None
    assert waits.waiting_since
    assert before <= waits.waiting_since.timestamp() <= time.time()
    rival.execute(f"SELECT pg_advisory_unlock{lock}", arguments)
    waiter.join(PATIENCE)
    holds = label(admin, key, granted=True)
    assert (holds.name, holds.waiting_since) == (waits.name, None)
    assert holds.since
    assert abs(holds.since.timestamp() - got[0].since.timestamp()) < 2  # of two looks at the clock
    someone.let_go(got[0])


def test_the_users_own_name_stays(
    person: Make, dsn: str, admin: Connection[Any], rival: Connection[Any]
) -> None:
    """Whether it came as a parameter or in the DSN, waiting or holding."""
    key = Key.of("nightly")
    own = make_conninfo(dsn, application_name="mine")
    for someone in (person(dsn, application_name="mine"), person(own)):
        rival.execute("SELECT pg_advisory_lock(%s)", (key.value,))
        got: list[Any] = []
        waiter = someone.begin_to_take("nightly", got)
        assert signed(admin, key, granted=False) == "mine"
        rival.execute("SELECT pg_advisory_unlock(%s)", (key.value,))
        waiter.join(PATIENCE)
        assert signed(admin, key, granted=True) == "mine"
        someone.let_go(got[0])


def test_no_signature_is_left_from_the_lock_before(
    person: Make, dsn: str, admin: Connection[Any], rival: Connection[Any]
) -> None:
    """A session that is used again signs for what it waits for now."""
    first, second = Key.of("first"), Key.of("second")
    for key in (first, second):
        rival.execute("SELECT pg_advisory_lock(%s)", (key.value,))
    someone = person(dsn, max_connections=2)  # one to wait on
    waiters = [someone.begin("first")]
    assert label(admin, first, granted=False).name == "first"
    waiters.append(someone.begin("second"))  # polls, until that one is free
    rival.execute("SELECT pg_advisory_unlock(%s)", (first.value,))
    waits = label(admin, second, granted=False)
    assert waits.name == "second"
    assert waits.since is None
    rival.execute("SELECT pg_advisory_unlock(%s)", (second.value,))
    for waiter in waiters:
        waiter.join(PATIENCE)


def test_run_signs_while_it_waits(cli: Cli, admin: Connection[Any], rival: Connection[Any]) -> None:
    """And afterwards, while its command runs."""
    key = Key.of("nightly")
    rival.execute("SELECT pg_advisory_lock(%s)", (key.value,))
    started = cli.start("run", "nightly", "--", *WORKER)
    waits = label(admin, key, granted=False)
    assert (waits.name, waits.pid, waits.since) == ("nightly", started.pid, None)
    assert waits.waiting_since
    rival.execute("SELECT pg_advisory_unlock(%s)", (key.value,))
    started.worker()
    holds = label(admin, key, granted=True)
    assert holds.since
    assert holds.waiting_since is None
    started.send(signal.SIGTERM)
    assert started.code() == 0


def test_run_signs_while_it_waits_for_a_slot(
    cli: Cli, admin: Connection[Any], rival: Connection[Any]
) -> None:
    """The server has no queue for any of several locks; so this is all that shows who waits."""
    rival.execute("SELECT pg_advisory_lock(%s)", (Key.slot("encode", 0).value,))
    started = cli.start("run", "--slots", "1", "encode", "--", *WORKER)
    seen = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE %s"
    pattern = f"advlock:encode %:{started.pid} ~%"
    ((application,),) = eventually(
        lambda: admin.execute(seen, (pattern,)).fetchall(), within=PATIENCE
    )
    waits = _label.parse(application)
    assert waits
    assert waits.waiting_since
    started.send(signal.SIGTERM)
    assert started.code() == 128 + signal.SIGTERM


def test_a_pooler_hands_on_no_signature(
    person: Make, server: Server, database: str, admin: Connection[Any], rival: Connection[Any]
) -> None:
    """Whoever is lent the session next is not taken for the one before."""
    key = Key.of("nightly")
    rival.execute("SELECT pg_advisory_lock(%s)", (key.value,))
    with bouncer(server, "session") as pooler:
        dsn = pooler.dsn(str(conninfo_to_dict(database)["dbname"]))
        someone = person(dsn)
        got: list[Any] = []
        waiter = someone.begin_to_take("nightly", got)
        assert label(admin, key, granted=False).name == "nightly"
        rival.execute("SELECT pg_advisory_unlock(%s)", (key.value,))
        waiter.join(PATIENCE)
        assert label(admin, key, granted=True).since
        someone.let_go(got[0])
        someone.close()
        for _ in range(2):
            with psycopg.connect(dsn, application_name="next") as other:
                assert other.execute("SHOW application_name").fetchone() == ("next",)
