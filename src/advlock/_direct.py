"""The address behind a pooler's, where that can be told from how providers name theirs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

# PgBouncer's own port, and the one that Supabase has for transaction pooling.
_POOLERS_PORTS: Final = ("6432", "6543")
_NEON: Final = (
    "-pooler"  # the end of the first label: https://neon.com/docs/connect/connection-pooling
)
_SUPABASE: Final = (
    ".pooler.supabase.com"  # https://supabase.com/docs/guides/database/connecting-to-postgres
)


def direct(conninfo: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the URL of the server itself, without a password; None where it cannot be told.

    Args:
        conninfo: What was connected to, for libpq.
        environ: Where libpq looks for what that leaves out, `os.environ` by default.
    """
    environ = os.environ if environ is None else environ
    given: dict[str, Any] = conninfo_to_dict(conninfo)
    host = str(given.get("host") or environ.get("PGHOST") or "")
    port = str(given.get("port") or environ.get("PGPORT") or "5432")
    user = str(given.get("user") or environ.get("PGUSER") or "")
    dbname = str(given.get("dbname") or environ.get("PGDATABASE") or "")
    if not host or "," in host or "," in port:
        return None
    label, dot, domain = host.partition(".")
    name, _, project = user.partition(".")
    if label.endswith(_NEON):
        host = label.removesuffix(_NEON) + dot + domain
    elif host.endswith(_SUPABASE) and project:
        host, port, user = f"db.{project}.supabase.co", "5432", name
    elif port not in _POOLERS_PORTS or host.startswith("/"):
        return None
    port = "5432" if port in _POOLERS_PORTS else port
    who = f"{quote(user)}@" if user else ""
    where = f"[{host}]" if ":" in host else host
    return f"postgresql://{who}{where}:{port}/{quote(dbname)}"
