"""The start-up of three containers, one of which is killed in the middle of a step."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from .conftest import Example

PATIENCE = 30.0  # seconds, on a busy machine
_INDEX = "SELECT to_regclass('first_customer_name') IS NOT NULL"
_WAITING = """
SELECT count(*) >= 2 FROM pg_stat_activity
WHERE application_name LIKE 'advlock:once:schema-v1 %~%' AND datname = current_database()
"""
_HOLDER = """
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
AND objid = (hashtextextended('once:schema-v1', 0) & 4294967295)::oid
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def start(example: Example, name: str, **env: str) -> subprocess.Popen[str]:
    """Start a container: all that it runs is one group."""
    words = " ".join(f"{key}={value}" for key, value in {"CONTAINER": name, **env}.items())
    return example.start("setsid", "--wait", "sh", "-c", f"{words} exec sh start.sh")


def one(session: psycopg.Connection[Any], sql: str) -> Any:
    """The first column of the first row; None for no row."""
    row = session.execute(sql).fetchone()
    return row and row[0]


def test_another_container_goes_on_where_one_was_killed(
    example: Callable[[str], Example], url: str
) -> None:
    """`kill -9` of everything in it, half-way: one of the others makes the tables, all serve."""
    made = example("startup")
    with psycopg.connect(url, autocommit=True) as session:
        first = start(made, "web-1", PAUSE="60")
        eventually(lambda: "makes the tables" in made.said(first), within=PATIENCE)
        others = [start(made, name) for name in ("web-2", "web-3")]
        eventually(lambda: one(session, _WAITING), within=PATIENCE)
        assert not one(session, _INDEX)
        kill_all(made)
        for other in others:
            assert other.wait(PATIENCE) == 0
        said = [made.said(other).splitlines() for other in others]
        assert one(session, _INDEX)
        assert one(session, _HOLDER) is None
    lines = sorted(line.partition(" ")[2] for told in said for line in told)
    serves = "serves 3 customers"
    assert lines == ["makes the tables", "puts three customers in", serves, serves]


def kill_all(example: Example) -> None:
    """End whatever runs in the first container, whoever has adopted it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            here = (process / "cwd").readlink() == example.folder
            if here and b"CONTAINER=web-1\0" in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
