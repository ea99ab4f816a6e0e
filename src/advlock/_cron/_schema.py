"""The tables of advlock: made on first use, or by hand. Pure.

Everything is done under one advisory lock, in one transaction for each version, with statements
that may be repeated. Whoever finds the current version there asks two short questions and no more.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from advlock import _sql as sql_of_locks
from advlock._cron import _sql
from advlock._plan import Refused, Script, Step
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock._plan import SessionPlan

_NOT_ALLOWED: Final = "42501"
TABLES: Final = ("migration", "cron_run", "cron_set", "cron_host", "cron_pause")


def prepare() -> SessionPlan[list[int]]:
    """Bring the tables to the current version; return which versions were missing.

    Raises:
        ConfigError: this role may not make them, or not use them.
    """
    try:
        applied = yield from version()
        missing = [number for number in sorted(_sql.MIGRATIONS) if number > applied]
        for number in missing:
            steps = (*_sql.SCHEMA_LOCK, *_sql.MIGRATIONS[number])
            yield Script(tuple(Step(sql) for sql in steps))
    except Refused as refusal:
        if refusal.sqlstate != _NOT_ALLOWED:
            raise
        answer = yield Script((Step(_sql.CURRENT_USER),))
        raise _not_allowed(refusal, answer[0][0][0] or "") from None
    return missing


def version() -> SessionPlan[int]:
    """Ask which version is there; 0 for none."""
    answer = yield Script((Step(_sql.VERSION),))
    if answer[0][0][0] == "0":
        return 0
    answer = yield Script((Step(_sql.APPLIED),))
    return int(answer[0][0][0] or 0)


def _not_allowed(refusal: Refused, role: str) -> ConfigError:
    return ConfigError(
        f"the tables of advlock are not there for the role {role}: {refusal.message}. Have "
        f"somebody who may create them do so: advlock init --sql --role {shlex.quote(role)} | psql",
        sqlstate=refusal.sqlstate,
    )


def text(role: str | None = None) -> str:
    """All of it as SQL, to be read and run by a DBA.

    Args:
        role: Who is going to use the tables; None for whoever runs the text.
    """
    lines = ["-- The tables and the sequence of advlock. May be run again.", "BEGIN;"]
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('advlock: schema', 0));"
    lines.append(lock)
    for number, statements in sorted(_sql.MIGRATIONS.items()):
        lines.append(f"\n-- version {number}")
        lines += [f"{statement};" for statement in statements]
    lines.append("\n-- fencing tokens")
    fence = [sql for sql in sql_of_locks.MAKE_FENCE if not sql.startswith("SELECT")]
    lines += [f"{statement};" for statement in fence[1:]]
    if role is not None:
        quoted = '"' + role.replace('"', '""') + '"'
        lines.append("\n-- for the role of the schedulers")
        lines.append(f"GRANT USAGE ON SCHEMA advlock TO {quoted};")
        tables = ", ".join(f"advlock.{table}" for table in TABLES)
        lines.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {quoted};")
    return "\n".join([*lines, "COMMIT;", ""])
