"""Small things for an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from advlock._plan import Expired

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Awaitable, Callable

    from advlock._wire import Wire

R = TypeVar("R")


def weakly(method: Callable[[], None]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    return call


def stop_and_close(wire: Wire, loop: AbstractEventLoop, stopped: Future[None]) -> None:
    wire.stop()
    wire.close()
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(_resolve, stopped)


def _resolve(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def fail(future: Future[Any], error: Exception) -> None:
    if not future.done() and not future.get_loop().is_closed():
        future.set_exception(error)
        future.exception()  # seen: whoever gave up waiting must not be warned about it


async def by(deadline: float | None, awaitable: Awaitable[R]) -> R:
    """Await until `deadline`, in the loop's time.

    Raises:
        Expired: `deadline` passed first.
    """
    if deadline is None:
        return await awaitable
    try:
        async with asyncio.timeout_at(deadline):
            return await awaitable
    except TimeoutError:
        raise Expired from None
