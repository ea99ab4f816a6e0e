"""Looking at ten thousand locks: what it costs the server, the way, and the one who looks.

The baseline is the bare `SELECT * FROM pg_locks` over psycopg, in the same round; it names nothing,
and knows of no session but its process id.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import psycopg

from advlock import Key, _schema
from advlock._dsn import Dsn
from advlock._inspect import _sql
from advlock._inspect._look import namer
from advlock._inspect._read import parse, snapshot
from advlock._inspect._window import Window
from bench.rounds import Quartiles

if TYPE_CHECKING:
    from advlock._inspect._naming import Namer

LOCKS: Final = 10_000
SESSIONS: Final = 4
LOCK: Final = "SELECT count(pg_advisory_lock(key)) FROM unnest(%s::bigint[]) AS key"
RECORD: Final = """
INSERT INTO advlock.lock_name (key, name, scheme)
SELECT key, name, 'hashtextextended' FROM unnest(%s::bigint[], %s::text[]) AS row(key, name)
ON CONFLICT DO NOTHING
"""
PARTS: Final = ("server", "transfer", "parse", "name", "total", "baseline")


def report(dsn: str, *, rounds: int) -> dict[str, Any]:
    """Measure without and with names in the database, and say so line by line."""
    found = {}
    keys = [Key.of(f"bench:{number}") for number in range(LOCKS)]
    with ExitStack() as stack:
        connect = lambda: stack.enter_context(psycopg.connect(dsn, autocommit=True))  # noqa: E731
        for number in range(SESSIONS):
            session = connect()
            session.execute(LOCK, ([key.value for key in keys[number::SESSIONS]],))
        other = connect()
        other.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
        for case in ("nothing recorded", "every name recorded"):
            if case != "nothing recorded":
                record(dsn, other, keys)
            times = measure(dsn, other, rounds)
            found[case] = {part: Quartiles.of(times[part]) for part in PARTS}
            say(case, found[case], times)
        other.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    return found


def record(dsn: str, session: psycopg.Connection[Any], keys: list[Key]) -> None:
    """Put the names down, as the processes that took the locks would."""
    with Window(Dsn(dsn, "the benchmark")) as window:
        window.ask(_schema.prepare())
    session.execute(RECORD, ([key.value for key in keys], [key.name for key in keys]))
    session.execute("ANALYZE advlock.lock_name")


def measure(dsn: str, session: psycopg.Connection[Any], rounds: int) -> dict[str, list[float]]:
    """Time each part, in seconds, round by round, after a round to warm up."""
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    with Window(Dsn(dsn, "the benchmark")) as window:
        seen = window.look()
        assert len(seen.trees) == LOCKS, f"{len(seen.trees)} locks, and not {LOCKS}"
        made = window.ask(namer(None))
        text = _sql.LOOK[window._access.tables]
        session.execute(f"PREPARE look AS {text}")  # type: ignore[call-overload]
        for number in range(rounds + 1):
            taken = one_round(window, session, made, text)
            for part in PARTS if number else ():
                times[part].append(taken[part])
        session.execute("DEALLOCATE look")
    return times


def one_round(
    window: Window, session: psycopg.Connection[Any], made: Namer, text: str
) -> dict[str, float]:
    """Time each part once."""
    clock = time.perf_counter
    explain = "EXPLAIN (ANALYZE, TIMING OFF) EXECUTE look(false, NULL, true)"
    plan = "\n".join(row[0] for row in session.execute(explain))
    said = re.findall(r"^(?:Planning|Execution) Time: (\S+)", plan, re.MULTILINE)
    server = sum(float(milliseconds) / 1000 for milliseconds in said)
    start = clock()
    answer = session.pgconn.exec_params(text.encode(), [b"false", None, b"true"])
    row = [answer.get_value(0, column) for column in range(answer.nfields)]
    asked = clock()
    told = parse([None if value is None else value.decode() for value in row])
    parsed = clock()
    snapshot(told, made)
    named = clock()
    window.look()
    looked = clock()
    session.execute("SELECT * FROM pg_locks").fetchall()
    return {
        "server": server,
        "transfer": max(0.0, asked - start - server),
        "parse": parsed - asked,
        "name": named - parsed,
        "total": looked - named,
        "baseline": clock() - looked,
    }


def say(case: str, found: dict[str, Quartiles], times: dict[str, list[float]]) -> None:
    """One case, for people."""
    pairs = zip(times["total"], times["baseline"], strict=True)
    ratio = Quartiles.of([ours / its for ours, its in pairs])
    parts = ", ".join(f"{part} {found[part].median * 1000:.1f}" for part in PARTS[:-2])
    print(
        f"{LOCKS:,} locks of {SESSIONS} sessions, {case}:"
        f" {found['total'].median * 1000:.0f} ms in all ({parts});"
        f" bare pg_locks: {found['baseline'].median * 1000:.0f} ms,"
        f" so {ratio.median:.2f} x as long (quartiles {ratio.low:.2f} to {ratio.high:.2f})",
        flush=True,
    )
