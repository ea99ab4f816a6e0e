"""The tables of advlock: made on first use, or by hand. Pure.

Everything is done under one advisory lock, in one transaction for each version, with statements
that may be repeated. Whoever finds the current version there asks two short questions and no more.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from advlock import _schema_sql as _sql
from advlock import _sql as sql_of_locks
from advlock._plan import Refused, Script, Step
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock._plan import SessionPlan

_NOT_ALLOWED: Final = "42501"
UNTRUSTED: Final = "22P02"  # how `TRUSTED` fails
LATEST: Final = max(_sql.MIGRATIONS)
CRON: Final = 1  # what the cron needs; the next version only adds the names of locks
ONCE: Final = 3  # what `once` needs
RATE: Final = 4  # what rate limits need
TABLES: Final = (
    *("migration", "cron_run", "cron_set", "cron_host", "cron_pause"),
    *("lock_name", "once", "rate_grant"),
)


def prepare(needed: int = LATEST) -> SessionPlan[list[int]]:
    """Bring the tables to the current version; return which versions were missing, and are there.

    Args:
        needed: The version without which the caller cannot go on. If it is there, and this role
            may not make later ones, then nothing is done.

    Raises:
        ConfigError: this role may not make them, or not use them; or they belong to somebody who
            could run code with its rights.
    """
    applied = 0
    try:
        applied = yield from version()
        missing = [number for number in sorted(_sql.MIGRATIONS) if number > applied]
        if missing and applied >= needed:
            answer = yield Script((Step(_sql.MAY_MAKE),))
            if answer[0] != [("t",)]:
                return []
        for number in missing:
            # Somebody else may have made them meanwhile.
            steps = (*_sql.SCHEMA_LOCK, _sql.TRUSTED, *_sql.MIGRATIONS[number], _sql.TRUSTED)
            yield Script(tuple(Step(sql) for sql in steps))
    except Refused as refusal:
        if refusal.sqlstate == UNTRUSTED:
            raise untrusted(refusal) from None
        if refusal.sqlstate != _NOT_ALLOWED:
            raise
        if applied >= needed:
            return []
        answer = yield Script((Step(_sql.CURRENT_USER),))
        raise _not_allowed(refusal, answer[0][0][0] or "") from None
    return missing


def version() -> SessionPlan[int]:
    """Ask which version is there; 0 for none."""
    answer = yield Script((Step(_sql.TRUSTED), Step(_sql.VERSION)))
    if answer[1][0][0] == "0":
        return 0
    answer = yield Script((Step(_sql.APPLIED),))
    return int(answer[0][0][0] or 0)


def untrusted(refusal: Refused) -> ConfigError:
    """Say whose code could run, and what to do about it."""
    found = re.search('"(.+)"', refusal.message)  # in whatever language the server speaks
    return ConfigError(
        f"{found[1] if found else refusal.message}: whoever owns tables of advlock could run "
        f"code with the rights of those who use them, so they have to belong to the role that "
        f"connects, to a superuser, or to the owner of the database (unless a superuser connects). "
        f"Connect as their owner, or have a superuser hand it over: ALTER SCHEMA advlock OWNER "
        f"TO …, and ALTER TABLE likewise; or DROP TRIGGER",
        sqlstate=refusal.sqlstate,
    )


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
        lines.append("\n-- for the role that uses them")
        lines.append(f"GRANT USAGE ON SCHEMA advlock TO {quoted};")
        tables = ", ".join(f"advlock.{table}" for table in TABLES)
        lines.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {quoted};")
    return "\n".join([*lines, "COMMIT;", ""])
