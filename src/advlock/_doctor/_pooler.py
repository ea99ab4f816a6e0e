"""What stands between us and the server: nothing, or a pooler, and in which mode.

A pooler makes up the process id of the startup packet, and the server answers with its own
(docs/why.md, 14). Only where they differ, more connections are opened, to see what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from advlock import _pooling
from advlock._doctor import _sql
from advlock._doctor._session import Refused, Unanswered, said
from advlock._pooling import Pooling, Verdict

if TYPE_CHECKING:
    from advlock._doctor._session import Session


def look(first: Session, conninfo: str, patience: float) -> Verdict:
    """Find out what stands in between.

    Args:
        first: A session that nothing was asked on yet; it is left as it was.
        conninfo: How to open more of them.
        patience: How long that may take, in seconds.

    Raises:
        Unanswered: not even the server's process id can be had.
    """
    try:
        pid = first.value(_sql.WHO_ANSWERS)
    except Refused:
        pid = first.value(_sql.WHO_ANSWERS_PLAINLY)
    if int(pid or 0) == first.startup_pid:
        return Verdict(Pooling.DIRECT, f"the server process we connected to, {pid}, answers itself")
    pids = f"connected to {first.startup_pid}, answered by {pid}"
    try:
        verdict = _pooling.probe(conninfo, patience)
    except (psycopg.Error, OSError) as error:
        raise Unanswered(f"{pids}; {said(error, conninfo)}") from None
    return verdict._replace(evidence=f"{pids}; {verdict.evidence}")
