"""The direct address behind a pooler's, from the names that providers give."""

from __future__ import annotations

import pytest

from advlock import _dsn
from advlock._direct import direct


@pytest.mark.parametrize(
    ("pooled", "expected"),
    [
        (
            "postgresql://u:secret@ep-cool-1-pooler.eu-central-1.aws.neon.tech/db?sslmode=require",
            "postgresql://u@ep-cool-1.eu-central-1.aws.neon.tech:5432/db",
        ),
        (
            "postgresql://postgres.abcd:secret@aws-0-eu-central-1.pooler.supabase.com:6543/postgres",
            "postgresql://postgres@db.abcd.supabase.co:5432/postgres",
        ),
        (
            "postgresql://postgres.abcd:secret@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
            "postgresql://postgres@db.abcd.supabase.co:5432/postgres",
        ),
        ("postgresql://u@db.example.com:6432/app", "postgresql://u@db.example.com:5432/app"),
        ("host=db.example.com port=6543 dbname=app", "postgresql://db.example.com:5432/app"),
        ("postgresql://u@[::1]:6432/app", "postgresql://u@[::1]:5432/app"),
        ("postgresql://my%20user@h:6432/my%20db", "postgresql://my%20user@h:5432/my%20db"),
    ],
)
def test_a_direct_address_is_inferred(pooled: str, expected: str) -> None:
    """From Neon's host names, Supabase's host and user, and PgBouncer's ports; no password."""
    assert direct(pooled, environ={}) == expected


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u@db.example.com/app",
        "postgresql://u@db.example.com:5433/app",
        "postgresql://u@a:6432,b:6432/app",
        "host=/run/postgresql port=6432",
        "postgresql://u@aws-0-eu.pooler.supabase.com:5432/postgres",
        "",
    ],
)
def test_elsewhere_nothing_is_guessed(address: str) -> None:
    """An ordinary address, several hosts, a Unix socket: None."""
    assert direct(address, environ={}) is None


def test_libpqs_environment_counts() -> None:
    """What the address leaves out is taken from where libpq takes it."""
    environ = {"PGHOST": "db.example.com", "PGPORT": "6432", "PGUSER": "u", "PGDATABASE": "app"}
    assert direct("", environ) == "postgresql://u@db.example.com:5432/app"


@pytest.mark.parametrize(
    ("dsn", "pooled"),
    [
        ("postgresql://h/db?pgbouncer=true", True),
        ("postgresql://h/db?schema=public&pgbouncer=TRUE&connection_limit=1", True),
        ("postgresql://h/db?pgbouncer=false", False),
        ("postgresql://h/db", False),
        ("host=h dbname=db", False),
    ],
)
def test_pgbouncer_in_the_address_is_remembered(dsn: str, pooled: bool) -> None:
    """`pgbouncer=true` is nothing for libpq, and a hint for the doctor."""
    assert _dsn.resolve(dsn).pooled is pooled
