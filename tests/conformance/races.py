"""Timeouts that race with the grant: the harness, and an innocent implementation to race with."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import ExecStatus

from advlock import Key, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from .worlds import Actor

_STEP = 0.00005


@dataclass
class Aim:
    """Move the waiter's deadline towards the moment of the grant, so that most tries race.

    Twice as many timeouts as grants: a grant moves it twice as far as a timeout does.
    """

    wait: float = 0.003
    timeouts: int = 0
    grants: int = 0

    def learn(self, *, granted: bool) -> None:
        """Take note of one outcome."""
        if granted:
            self.grants += 1
            self.wait = max(0.0002, self.wait - 2 * _STEP)
        else:
            self.timeouts += 1
            self.wait += _STEP

    def next(self) -> float:
        """The next deadline, in seconds."""
        return max(0.0001, self.wait + random.uniform(-0.0002, 0.0002))  # noqa: S311 - jitter


@dataclass
class Tally:
    """How many timeouts there were, of how many tries; stops at `wanted`, or at a leak."""

    wanted: int
    lanes: int = 8
    timeouts: int = 0
    grants: int = 0
    leaks: int = 0

    @property
    def full(self) -> bool:
        """Whether there is nothing more to find out."""
        return self.timeouts >= self.wanted or self.leaks > 0

    def count(self, *, granted: bool) -> None:
        """Take note of one outcome."""
        if granted:
            self.grants += 1
        else:
            self.timeouts += 1


class Releaser:
    """Another session, which holds a lock and lets go of it a moment later, without being asked."""

    def __init__(self, dsn: str, name: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, application_name="rival")
        self._pgconn = self._connection.pgconn
        self._key = Key.of(name).value
        self._connection.execute("SELECT 1")

    @property
    def pid(self) -> int:
        """Its server process."""
        return self._connection.info.backend_pid

    async def take(self) -> None:
        """Take the lock; waits for whoever still has it."""
        await self._ask(f"SELECT pg_advisory_lock({self._key})")

    def let_go_soon(self) -> None:
        """Send the release; the server carries it out after two milliseconds."""
        self._send(f"SELECT pg_sleep(0.002), pg_advisory_unlock({self._key})")

    async def has_let_go(self) -> None:
        """Wait for the answer."""
        await self._answer()

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    async def _ask(self, sql: str) -> None:
        self._send(sql)
        await self._answer()

    def _send(self, sql: str) -> None:
        self._pgconn.send_query(sql.encode())
        self._pgconn.flush()

    async def _answer(self) -> None:
        while True:
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    return
                assert result.status == ExecStatus.TUPLES_OK, result.error_message
            await asyncio.sleep(0.0003)


async def lane(actor: Actor, hold: Callable[..., Any], dsn: str, name: str, tally: Tally) -> None:
    """Race one waiter against one releaser until the tally is full."""
    releaser, aim = Releaser(dsn, name), Aim()
    try:
        while not tally.full:
            await releaser.take()
            releaser.let_go_soon()
            context, granted = hold(name, wait=aim.next()), True
            try:
                await actor.enter(context)
            except LockTimeout:
                granted = False
                tally.leaks += getattr(context, "leaked", bool)()
            else:
                await actor.exit(context)
            await releaser.has_let_go()
            aim.learn(granted=granted)
            tally.count(granted=granted)
    finally:
        releaser.close()


class Innocent:
    """What one would write first: lock_timeout, and a session that goes on after the error."""

    def __init__(self, dsn: str) -> None:
        self.session = psycopg.connect(dsn, autocommit=True, application_name="innocent")

    def hold(self, name: str, *, wait: float) -> InnocentHold:
        """Hold a lock, as the real client does."""
        return InnocentHold(self.session, Key.of(name).value, wait)


class InnocentHold:
    """Enters when granted, and believes the error when not."""

    def __init__(self, session: psycopg.Connection[Any], key: int, wait: float) -> None:
        self._session = session
        self._key = key
        self._wait = wait

    def __enter__(self) -> None:
        # lock_timeout counts whole milliseconds; the rest of the aim is in the moment of asking.
        self._session.execute("SET lock_timeout = 1")
        time.sleep(max(0.0, self._wait - 0.001))
        try:
            self._session.execute(f"SELECT pg_advisory_lock({self._key})")
        except psycopg.errors.LockNotAvailable:
            raise LockTimeout from None

    def __exit__(self, *_: object) -> None:
        self._session.execute(f"SELECT pg_advisory_unlock({self._key})")

    def leaked(self) -> bool:
        """Whether the lock was there after all, in spite of the error; gives it back."""
        self._session.execute("SET client_min_messages = error")
        row = self._session.execute(f"SELECT pg_advisory_unlock({self._key})").fetchone()
        return row is not None and row[0]

    async def __aenter__(self) -> None:
        await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)
