"""A process that claims jobs, works on them and marks them done, and is killed at any moment.

What it does is recorded at the server, twice: by a trigger under the table, for what was committed,
and through a session of its own, for what was claimed. It ends with its stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from typing import Any, Final

import psycopg

import advlock
from advlock import _claim_sql

NOTE: Final = "INSERT INTO work (job, worker, what) SELECT id, %s, %s FROM unnest(%s::int[]) AS id"
_DONE: Final = "UPDATE job SET state = 'done' WHERE id = ANY(%s)"
# Of a session; the second comes through when there is none any more to roll back on.
_ENDS: Final = (psycopg.OperationalError, psycopg.Rollback)
_SHARE_OF_SECOND_THOUGHTS: Final = 0.1


class Plan:
    """What one loop does: dice, thrown for each claim."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._dice = random.Random(options.seed)  # noqa: S311
        self.name = f"{options.name}-{os.getpid()}"

    def asks(self) -> dict[str, Any]:
        """What to claim: everybody wants the first ones."""
        where = {"where": "state = %s", "params": ["new"]}
        return {**where, "order_by": "id", "limit": self._dice.randint(1, 3)}

    def work(self) -> float:
        """How long a job takes, in seconds: mostly a moment."""
        return self._dice.choice((0.0, 0.001, 0.003, 0.02))

    def takes_it_back(self) -> bool:
        """Whether to roll back after all."""
        return self._dice.random() < _SHARE_OF_SECOND_THOUGHTS


def once(conn: Any, record: Any, plan: Plan) -> None:
    """Claim, work, mark as done."""
    with conn.transaction():
        ids = [row["id"] for row in advlock.claim(conn, "job", **plan.asks())]
        record.execute(NOTE, (plan.name, "begins", ids))
        time.sleep(plan.work())
        conn.execute(_DONE, (ids,))
        record.execute(NOTE, (plan.name, "ends", ids))
        if plan.takes_it_back():
            raise psycopg.Rollback


async def aonce(conn: Any, record: Any, plan: Plan) -> None:
    """The same for tasks."""
    async with conn.transaction():
        ids = [row["id"] for row in await advlock.claim(conn, "job", **plan.asks())]
        await record.execute(NOTE, (plan.name, "begins", ids))
        await asyncio.sleep(plan.work())
        await conn.execute(_DONE, (ids,))
        await record.execute(NOTE, (plan.name, "ends", ids))
        if plan.takes_it_back():
            raise psycopg.Rollback


def live(options: argparse.Namespace, plan: Plan) -> None:
    """Do it for ever, on new sessions when the old ones end."""
    names = [{"application_name": f"{part}-{options.name}"} for part in ("claim", "record")]
    while True:
        with (
            contextlib.suppress(*_ENDS),
            psycopg.connect(options.dsn, **names[0]) as conn,  # type: ignore[arg-type]
            psycopg.connect(options.dsn, autocommit=True, **names[1]) as record,  # type: ignore[arg-type]
        ):
            while True:
                once(conn, record, plan)
        time.sleep(0.02)


async def alive(options: argparse.Namespace, plan: Plan) -> None:
    """The same for tasks."""
    connect: Any = psycopg.AsyncConnection.connect
    while True:
        with contextlib.suppress(*_ENDS):
            async with (
                await connect(options.dsn, application_name=f"claim-{options.name}") as conn,
                await connect(
                    options.dsn, autocommit=True, application_name=f"record-{options.name}"
                ) as record,
            ):
                while True:
                    await aonce(conn, record, plan)
        await asyncio.sleep(0.02)


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(0)


def main() -> None:
    """Be a worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=("sync", "async"))
    parser.add_argument("dsn")
    parser.add_argument("directory")
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--naive", action="store_true", help="without row locks: the control")
    options = parser.parse_args()
    if options.naive:
        plain: Any = _claim_sql.CLAIM.replace("FOR UPDATE SKIP LOCKED", "")
        _claim_sql.CLAIM = plain  # type: ignore[misc]
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of sessions that are gone
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    if options.world == "async":
        asyncio.run(alive(options, Plan(options)))
    else:
        live(options, Plan(options))


if __name__ == "__main__":
    main()
