"""The example's application as it is without advlock: every worker runs the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import main  # of the example, whose copy this one lies in
from fastapi import FastAPI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Run it in the background."""
    task = asyncio.create_task(main.scheduler(None))
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)
