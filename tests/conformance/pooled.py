"""PgBouncers for the tests of what only a pooler can do to us, and a look at what they lend.

The `pools` of a test module are in front of the newest server; one that needs another one, or a
pooler of its own to kill, makes it with `pools_before` or `bouncer`.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from bouncers import bouncer
from psycopg import sql
from servers import locks_in_db
from waiting import eventually

from .databases import connect, fresh_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bouncers import Bouncer
    from psycopg import Connection
    from servers import Server

    from .helpers import Admin

# Idle sessions go soon: all the workers' pools share the server's max_connections.
_SETTINGS: dict[str, object] = {"default_pool_size": 10, "server_idle_timeout": 10}
TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
FREE = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


class Pools:
    """A database, and the poolers before it.

    Attributes:
        server: Where it is.

        database: The way to it without a pooler.

        dbname: Its name.

        admin: A superuser's session in it.
    """

    def __init__(self, server: Server, database: str, admin: Admin, stack: ExitStack) -> None:
        self.server = server
        self.database = database
        self.dbname = str(psycopg.conninfo.conninfo_to_dict(database)["dbname"])
        self.admin = admin
        self._stack = stack
        self._made: dict[tuple[Any, ...], Bouncer] = {}

    def bouncer(self, mode: str = "transaction", **settings: object) -> Bouncer:
        """Return a pooler that the module shares; it must be left as it was found."""
        what = (mode, *sorted((name, str(value)) for name, value in settings.items()))
        if what not in self._made:
            self._made[what] = self._stack.enter_context(self.own(mode, **settings))
        return self._made[what]

    @contextmanager
    def own(self, mode: str = "transaction", **settings: object) -> Iterator[Bouncer]:
        """Start a pooler of the test's own."""
        with bouncer(self.server, mode, **(_SETTINGS | settings)) as made:
            yield made

    def dsn(self, mode: str = "transaction", **settings: object) -> str:
        """How a client reaches the database through a pooler that the module shares."""
        return self.bouncer(mode, **settings).dsn(self.dbname)

    def check(self) -> None:
        """Check that no test left anything behind: no lock, and no session that is lent."""
        self.admin.execute("SELECT pg_advisory_unlock_all()")  # of a test that failed
        eventually(lambda: not locks_in_db(self.admin), message="no lock is left")
        for what, made in self._made.items():
            assert made.process.poll() is None, f"the pooler {what} ended: {made.process.poll()}"
            eventually(lambda made=made: not made.pinned(), message="no session is lent")


@contextmanager
def pools_before(server: Server) -> Iterator[Pools]:
    """Make a database on `server`, and poolers before it as they are asked for."""
    with fresh_database(server) as database, connect(database) as admin, ExitStack() as stack:
        yield Pools(server, database, admin, stack)


@contextmanager
def plain_clients(pooler: Bouncer, dbname: str, count: int) -> Iterator[list[Connection[Any]]]:
    """Open clients that know nothing of advlock; each is inside a transaction, and keeps a session.

    They leave without one: what they were lent is then as good as before.
    """
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            dsn = pooler.dsn(dbname, application_name="plain")  # or the last client's would stay
            client = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
            stack.callback(client.close)
            clients.append(client)
            client.execute("BEGIN")
        try:
            yield clients
        finally:
            for client in clients:
                if client.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    client.execute("ROLLBACK")


def make_table(admin: Admin) -> str:
    """Make a table which only the test itself vacuums."""
    table = f"busy_{secrets.token_hex(4)}"
    identifier = sql.Identifier(table)
    admin.execute(
        sql.SQL("CREATE TABLE {} (id int) WITH (autovacuum_enabled = false)").format(identifier)
    )
    return table


def servers_of(pooler: Bouncer, dbname: str) -> set[int]:
    """The server processes that a pooler has sessions with."""
    rows = pooler.ask("SHOW SERVERS")
    return {row["remote_pid"] for row in rows if row["database"] == dbname}


def in_the_queue(pooler: Bouncer, dbname: str) -> int:
    """How many clients wait for a session."""
    rows = pooler.ask("SHOW CLIENTS")
    return sum(row["state"] == "waiting" for row in rows if row["database"] == dbname)
