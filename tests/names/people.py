"""Somebody who uses locks, in either world, and the table of their names."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from waiting import eventually

from advlock import AsyncLocks, Locks, _schema

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from psycopg import Connection

LIVENESS = 3  # the shortest: names are recorded with the heartbeat
PATIENCE = 25.0


class Sync:
    """A thread with a `Locks`."""

    def __init__(self, dsn: str, **settings: Any) -> None:
        self.client = Locks(dsn, **settings)

    def use(self, *names: Any) -> None:
        """Take each of these, and give it back."""
        for name in names:
            with self.client.hold(name, wait=PATIENCE):
                pass

    def take(self, name: Any) -> Any:
        """Take one for longer."""
        return self.client._hold(name, wait=PATIENCE, owned=False)

    def begin(self, name: Any) -> threading.Thread:
        """Begin to wait for one, and give it back at once when it is there."""
        waiter = threading.Thread(target=self.use, args=(name,), daemon=True)
        waiter.start()
        return waiter

    def begin_to_take(self, name: Any, got: list[Any]) -> threading.Thread:
        """Begin to wait for one; it is there when the thread has ended."""
        waiter = threading.Thread(target=lambda: got.append(self.take(name)), daemon=True)
        waiter.start()
        return waiter

    def let_go(self, held: Any) -> None:
        """Give it back."""
        self.client._let_go(held)

    def close(self) -> None:
        """Close the client."""
        self.client.close()


class Async:
    """The same with an `AsyncLocks`, in a loop that runs in a thread."""

    def __init__(self, dsn: str, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.client = AsyncLocks(dsn, **settings)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _use(self, names: tuple[Any, ...]) -> None:
        for name in names:
            async with self.client.hold(name, wait=PATIENCE):
                pass

    def use(self, *names: Any) -> None:
        """Take each of these, and give it back."""
        self._run(self._use(names))

    async def _take(self, name: Any) -> Any:
        return await self.client._hold(name, wait=PATIENCE, owned=False)

    def take(self, name: Any) -> Any:
        """Take one for longer."""
        return self._run(self._take(name))

    def begin(self, name: Any) -> threading.Thread:
        """Begin to wait for one, and give it back at once when it is there."""
        waiter = threading.Thread(target=self.use, args=(name,), daemon=True)
        waiter.start()
        return waiter

    def begin_to_take(self, name: Any, got: list[Any]) -> threading.Thread:
        """Begin to wait for one; it is there when the thread has ended."""
        waiter = threading.Thread(target=lambda: got.append(self.take(name)), daemon=True)
        waiter.start()
        return waiter

    def let_go(self, held: Any) -> None:
        """Give it back."""
        self._run(self.client._let_go(held))

    def close(self) -> None:
        """Close the client, and end the loop."""
        if self._loop.is_closed():
            return
        self._run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


Person = Sync | Async


def client(world: str, dsn: str, **settings: Any) -> Person:
    """Make somebody of the world `sync` or `async`."""
    made = Sync if world == "sync" else Async
    return made(dsn, **({"liveness": LIVENESS} | settings))


class Table:
    """The table of names, as a bystander sees it."""

    def __init__(self, admin: Connection[Any]) -> None:
        self.admin = admin

    def make(self) -> None:
        """Make it."""
        self.admin.execute(_schema.text().encode())

    def names(self) -> set[str]:
        """Which names it has."""
        return {name for (name,) in self.admin.execute("SELECT name FROM advlock.lock_name")}

    def has(self, *names: str) -> None:
        """Wait until it has all of these."""
        eventually(lambda: self.names() >= set(names), message=f"{names} recorded", within=PATIENCE)

    def rows(self) -> list[Any]:
        """Its rows, with what tells that one was written again."""
        return self.admin.execute(
            "SELECT name, key, xmin, ctid, seen_at FROM advlock.lock_name ORDER BY name"
        ).fetchall()

    def age(self, days: int) -> None:
        """Let all rows grow older."""
        self.admin.execute(
            "UPDATE advlock.lock_name SET seen_at = seen_at - %s * interval '1 day'", (days,)
        )

    def fill(self, count: int, days: int) -> None:
        """Put in other names, not seen for so long."""
        self.admin.execute(
            "INSERT INTO advlock.lock_name SELECT n, 'old ' || n, 'hashtextextended', 0, "
            "clock_timestamp() - %s * interval '1 day' - n * interval '1 second' "
            "FROM generate_series(1, %s) AS n",
            (days, count),
        )

    def count(self) -> int:
        """How many rows there are."""
        row = self.admin.execute("SELECT count(*) FROM advlock.lock_name").fetchone()
        assert row
        return int(row[0])
