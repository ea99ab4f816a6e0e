"""Sessions and connections of an application, sync and async, behind the same verbs."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from advlock.sqlalchemy import claim, try_xact_lock, xact_lock

from .sqlalchemy_drivers import ASYNC, SYNC, async_engine, sync_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WORLDS = [*(f"sync-{driver}" for driver in SYNC), *(f"async-{driver}" for driver in ASYNC)]


class Caller:
    """A session or a connection."""

    def __init__(self, on: Any) -> None:
        self.on = on
        self.is_async = isinstance(on, AsyncConnection | AsyncSession)

    async def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call something, in a thread or on the loop."""
        if not self.is_async:
            return await asyncio.to_thread(function, *args, **kwargs)
        outcome = function(*args, **kwargs)
        return await outcome if inspect.isawaitable(outcome) else outcome

    async def lock(self, name: Any, **kwargs: Any) -> None:
        """Call `xact_lock`."""
        assert await self.do(xact_lock, self.on, name, **kwargs) is None

    async def attempt(self, name: Any, **kwargs: Any) -> bool:
        """Call `try_xact_lock`."""
        outcome = await self.do(try_xact_lock, self.on, name, **kwargs)
        assert isinstance(outcome, bool)
        return outcome

    async def claim(self, select: Any, **kwargs: Any) -> list[Any]:
        """Call `claim`."""
        rows = await self.do(claim, self.on, select, **kwargs)
        assert isinstance(rows, list)
        return rows

    async def sql(self, words: str) -> Any:
        """Run a statement; the first value of the first row, if there is one."""
        result = await self.do(self.on.execute, text(words))
        return result.scalar() if result.returns_rows else None

    async def end(self, how: str = "commit") -> None:
        """Commit, or roll back."""
        await self.do(getattr(self.on, how))


class Crowd:
    """Callers on one engine."""

    def __init__(self, engine: Any, world: str) -> None:
        self.engine, self.world = engine, world
        self._opened: list[Caller] = []

    async def session(self, **settings: Any) -> Caller:
        """Open a session."""
        kind = AsyncSession if self.world.startswith("async") else Session
        self._opened.append(Caller(kind(self.engine, **settings)))
        return self._opened[-1]

    async def connection(self) -> Caller:
        """Open a connection."""
        connecting = self.engine.connect()
        on = await connecting if self.world.startswith("async") else connecting
        self._opened.append(Caller(on))
        return self._opened[-1]

    async def close(self) -> None:
        """Close what was opened, and the pool."""
        for caller in self._opened:
            await caller.do(caller.on.close)
        disposed = self.engine.dispose()
        if inspect.isawaitable(disposed):
            await disposed


@asynccontextmanager
async def crowd(world: str, dsn: str, **settings: Any) -> AsyncIterator[Crowd]:
    """Make an engine for that world, and close what comes of it."""
    kind, _, driver = world.partition("-")
    make = sync_engine if kind == "sync" else async_engine
    made = Crowd(make(dsn, driver, **settings), world)
    try:
        yield made
    finally:
        await made.close()
