"""A web application of several workers, one of which ticks each second."""

from __future__ import annotations

import asyncio
import os
from math import floor
from typing import Annotated

import psycopg
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

import advlock
from advlock.asgi import lifespan, run_once, while_leader

URL = os.environ["DATABASE_URL"]
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
TICK = "INSERT INTO tick (second, worker) VALUES (%s, %s)"


async def make_tables() -> None:
    """Make the table, once per deployment."""
    async with await psycopg.AsyncConnection.connect(URL) as conn:
        await conn.execute(
            "CREATE TABLE tick (second bigint NOT NULL, worker int NOT NULL,"
            " at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )


async def scheduler(_term: advlock.AsyncTerm | None) -> None:
    """Tick each whole second of the database's clock; it runs on the leader."""
    async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as conn:
        ((now,),) = await (await conn.execute(NOW)).fetchall()
        second = floor(now) + 1  # whoever led before us has not come so far
        while True:
            while now < second:  # again, where our clock is ahead of the database's
                await asyncio.sleep(second - now)
                ((now,),) = await (await conn.execute(NOW)).fetchall()
            await conn.execute(TICK, (second, os.getpid()))
            second += 1


app = FastAPI(
    lifespan=lifespan(
        run_once("tick-tables-v1", make_tables),
        while_leader("scheduler", scheduler),
    )
)


def locks(request: Request) -> advlock.AsyncLocks:
    """Return this worker's client, for endpoints."""
    return request.state.advlock


Locks = Annotated[advlock.AsyncLocks, Depends(locks)]


@app.post("/users/{user}/report")
async def report(user: int, locks: Locks, seconds: float = 1.0) -> dict[str, str]:
    """Make a user's report, unless somebody is at it."""
    async with locks.attempt(f"report:{user}", cancel_on_lost=True) as held:
        if held is None:
            raise HTTPException(409, "it is being made", headers={"Retry-After": "5"})
        await asyncio.sleep(seconds)
    return {"report": "ready"}


@app.post("/users/{user}/pay")
async def pay(user: int, locks: Locks, seconds: float = 1.0) -> dict[str, str]:
    """Pay for a user, one payment after the other."""
    async with locks.hold(f"pay:{user}", wait="0.5s", cancel_on_lost=True):
        await asyncio.sleep(seconds)
    return {"payment": "done"}


@app.exception_handler(advlock.LockTimeout)
async def busy(_request: Request, _error: Exception) -> JSONResponse:
    """Say that somebody else is at it: try again."""
    return JSONResponse({"detail": "busy"}, 409, {"Retry-After": "5"})


@app.exception_handler(advlock.LockLost)
@app.exception_handler(advlock.DatabaseUnavailable)
async def no_locks(_request: Request, _error: Exception) -> JSONResponse:
    """Say that it is not the client's fault."""
    return JSONResponse({"detail": "not now"}, 503, {"Retry-After": "5"})
