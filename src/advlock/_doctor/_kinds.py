"""Which server speaks PostgreSQL's protocol there, by name: for the advice, never for the verdict.

Whether locks exclude anybody, `_probe` finds out. A name only says what to do about it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server.

    Attributes:
        name: What it is called.

        sign: A pattern for its `version()`, with the release as its group; or a trace of it.

        advice: What to know about locks there.

        is_postgresql: Whether it is PostgreSQL's own code, so that PostgreSQL's version counts.

        release: Its own version, where `version()` says it.
    """

    name: str
    sign: str = ""
    advice: str = ""
    is_postgresql: bool = True
    release: str = ""


POSTGRESQL: Final = Kind("PostgreSQL")

_OTHERS: Final = (
    Kind(
        "CockroachDB",
        r"CockroachDB.*? v([\d.]+)",
        "its session-level advisory locks have been stubs that exclude nobody"
        " (cockroachdb/cockroach#13546)",
        is_postgresql=False,
    ),
    Kind(
        "YugabyteDB",
        r"-YB-([\d.]+)",
        "it has advisory locks from 2.25 on (yugabyte/yugabyte-db#3642)",
        is_postgresql=False,
    ),
    Kind("Redshift", r"Redshift ([\d.]+)", "it has no advisory locks", is_postgresql=False),
    Kind(
        "Greenplum",
        r"Greenplum Database ([\d.]+)",
        "locks live on the coordinator: connect to that one only",
        is_postgresql=False,
    ),
    Kind("Materialize", r"Materialize v([\d.]+)", is_postgresql=False),
    Kind("CrateDB", r"CrateDB ([\d.]+)", is_postgresql=False),
)
# A trace is what `_sql.TRACES` finds; the first that fits names the kind.
_PROVIDERS: Final = (
    Kind(
        "Aurora PostgreSQL",
        "function aurora_version",
        "use the cluster (writer) endpoint; after a fail-over all locks are gone",
    ),
    Kind("RDS for PostgreSQL", "role rdsadmin", "behind RDS Proxy, locks pin a connection"),
    Kind("AlloyDB", "setting alloydb", "use the primary instance's address"),
    Kind("Cloud SQL for PostgreSQL", "role cloudsqladmin"),
    Kind("Azure Database for PostgreSQL", "role azuresu", "port 6432 is its PgBouncer"),
    Kind(
        "Neon PostgreSQL",
        "setting neon",
        "a compute that is suspended ends its sessions, and their locks",
    ),
    Kind(
        "Supabase PostgreSQL",
        "role supabase_admin",
        "port 6543 is its pooler in transaction mode; 5432 is direct, or in session mode",
    ),
)
_EXTENSIONS: Final = (
    Kind("Citus", "extension citus", "locks are per node: connect to the coordinator only"),
    Kind("TimescaleDB", "extension timescaledb"),
)


def identify(version: str, traces: Collection[str]) -> Kind:
    """Say what runs there.

    Args:
        version: The answer of `version()`.
        traces: The answer of `_sql.TRACES`; empty where that could not be asked.
    """
    for kind in _OTHERS:
        if match := re.search(kind.sign, version):
            return replace(kind, release=match[1])
    return next((kind for kind in _PROVIDERS if kind.sign in traces), POSTGRESQL)


def extensions(traces: Collection[str]) -> list[Kind]:
    """Name the extensions that have something to do with locks."""
    return [kind for kind in _EXTENSIONS if kind.sign in traces]
