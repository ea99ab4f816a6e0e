"""Examine a patient, and compare what was found with what was planted."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import eventually

from advlock._doctor._exam import examine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bouncers import Bouncer
    from servers import Server

    from advlock import Finding, Report


def connect(dsn: str, **options: Any) -> psycopg.Connection[Any]:
    """A bystander's session."""
    return psycopg.connect(dsn, autocommit=True, **{"application_name": "bystander"} | options)


def codes(report: Report) -> list[str]:
    """What was found."""
    return [finding.code for finding in report.findings]


def check_found(dsn: str, *expected: str, unchecked: int = 0, **options: Any) -> Report:
    """Examine; there must be these findings and no other, and so many checks that failed."""
    report = examine(dsn, **options)
    assert sorted(codes(report)) == sorted(expected), report
    failed = [fact for fact in report.facts.values() if fact.startswith("could not")]
    assert len(failed) == unchecked, failed
    return report


def the_finding(report: Report) -> Finding:
    """The only one."""
    (finding,) = report.findings
    return finding


def over_tcp(server: Server, dsn: str) -> str:
    """The same database over TCP."""
    return server.tcp_dsn(str(conninfo_to_dict(dsn)["dbname"]))


@contextmanager
def role(superuser_dsn: str, *statements: str) -> Iterator[str]:
    """Make a role without any privilege; yield its DSN.

    Args:
        superuser_dsn: Where, and who may.

        statements: What else to do to it; `{}` is its name.
    """
    name, password = f"app_{secrets.token_hex(4)}", secrets.token_hex(8)
    identifier = sql.Identifier(name)
    with connect(superuser_dsn) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier, password))
        for statement in statements:
            session.execute(sql.SQL(statement).format(identifier))  # type: ignore[arg-type]
    try:
        yield make_conninfo(superuser_dsn, user=name, password=password)
    finally:
        with connect(superuser_dsn) as session:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
            session.execute(end, (name,))
            session.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
            session.execute(sql.SQL("DROP ROLE {}").format(identifier))


@contextmanager
def sessions(dsn: str, count: int) -> Iterator[list[psycopg.Connection[Any]]]:
    """Open so many of them, and nobody else is there; afterwards there is room again."""
    with ExitStack() as stack:
        opened: list[psycopg.Connection[Any]] = []
        for _ in range(count):
            opened.append(stack.enter_context(connect(dsn)))
            if len(opened) == 1:
                wait_for_room(opened[0], opened[0].info.dbname)
        yield opened
        for session in opened[1:]:
            session.close()
        if opened:
            wait_for_room(opened[0], opened[0].info.dbname)


def wait_for_room(witness: psycopg.Connection[Any], database: str) -> None:
    """Wait until nobody but the witness is in a database: who has closed is not gone at once."""
    others = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = %s AND usename IS NOT NULL AND pid <> pg_backend_pid()"""
    eventually(
        lambda: witness.execute(others, (database,)).fetchone() == (0,), message="room", within=20
    )


def warm(pooler: Bouncer, database: str) -> None:
    """Have a pooler open sessions ahead.

    The doctor waits 0.25 s for the second one, and a busy machine may take longer to open it.
    """
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connect(pooler.dsn(database))).execute("SELECT 1")

    def ready() -> bool:
        return {row["state"] for row in pooler.ask("SHOW SERVERS")} <= {"idle", "used"}

    eventually(ready, message="the sessions are back in the pool", within=20)


MAKE_FENCE = (
    "CREATE SCHEMA advlock",
    "CREATE SEQUENCE advlock.fence AS bigint MAXVALUE 140737488355327 CACHE 1",
    "GRANT USAGE ON SCHEMA advlock TO PUBLIC",
    "GRANT USAGE ON SEQUENCE advlock.fence TO PUBLIC",
)


def make_fence(dsn: str, *changes: str) -> None:
    """Make the sequence that tokens come from, and change it."""
    with connect(dsn) as session:
        for statement in (*MAKE_FENCE, *changes):
            session.execute(statement)  # type: ignore[call-overload]
