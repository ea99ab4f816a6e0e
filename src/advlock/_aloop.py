"""Small things for an event loop."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import weakref
from functools import partial
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


def in_a_thread(function: Callable[..., R], *args: object) -> Future[R]:
    """Call `function`, which may wait, in a thread of its own; the loop's executor is others'."""
    future: Future[R] = asyncio.get_running_loop().create_future()
    _thread.start_new_thread(_report, (future, function, args))
    return future


def _report(future: Future[R], function: Callable[..., R], args: tuple[object, ...]) -> None:
    tell: Callable[[], None]
    try:
        tell = partial(_give, future, function(*args))
    except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
        tell = partial(fail, future, error)
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        future.get_loop().call_soon_threadsafe(tell)


def _give(future: Future[R], outcome: R) -> None:
    if not future.done():
        future.set_result(outcome)


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
