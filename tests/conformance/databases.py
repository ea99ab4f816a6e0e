"""Databases and roles of a test's own, on a server that others use, too."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server


def connect(dsn: str) -> psycopg.Connection[Any]:
    """A bystander's session."""
    return psycopg.connect(dsn, autocommit=True, application_name="bystander")


@contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """Make a database in which nobody ever drew a token; yield the superuser's DSN."""
    name = f"advlock_fresh_{secrets.token_hex(4)}"
    with connect(server.superuser_dsn) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield server.dsn(name)
    finally:
        with connect(server.superuser_dsn) as session:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            session.execute(drop.format(sql.Identifier(name)))


@contextmanager
def plain_role(superuser_dsn: str) -> Iterator[tuple[str, str]]:
    """Make a role without any privilege; yield its name, and its DSN for the same database."""
    role, password = f"advlock_role_{secrets.token_hex(4)}", secrets.token_hex(8)
    identifier = sql.Identifier(role)
    with connect(superuser_dsn) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier, password))
    try:
        yield role, make_conninfo(superuser_dsn, user=role, password=password)
    finally:
        with connect(superuser_dsn) as session:
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role,)
            )
            session.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
            session.execute(sql.SQL("DROP ROLE {}").format(identifier))
