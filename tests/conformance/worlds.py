"""Two worlds that run the same text: threads with `Locks`, tasks with `AsyncLocks`.

A test is an `async def` in both. An `Actor` is somebody who can hold a lock: in the sync world an
OS thread, so that ownership by thread is real, in the async world a task. Whatever a world made is
closed when the test ends, also when it failed, and nothing waits for it without a limit.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from advlock import AsyncLocks, Locks

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# How long closing a client, or an actor's last call, may take before the test fails, in seconds.
PATIENCE = 8.0


class ThreadActor:
    """Executes calls one after the other in a thread of its own."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="actor", daemon=True)
        self._thread.start()

    def start(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Hand in a call; the task returned ends with its outcome."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._calls.put((loop, future, fn, args, kwargs))
        return loop.create_task(_outcome(future))

    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call and wait for the result."""
        return await self.start(fn, *args, **kwargs)

    async def enter(self, context: Any) -> Any:
        """Enter a context manager."""
        return await self.entering(context)

    def entering(self, context: Any) -> asyncio.Task[Any]:
        """Begin to enter a context manager."""
        return self.start(context.__enter__)

    async def exit(self, context: Any, error: BaseException | None = None) -> Any:
        """Leave a context manager, as a body that raised `error` does."""
        return await self.call(context.__exit__, *_exc_info(error))

    async def within(self, context: Any, body: Callable[[Any], Any]) -> Any:
        """Run `body` inside the context manager, by a `with` statement."""

        def run() -> Any:
            with context as value:
                return body(value)

        return await self.call(run)

    async def close(self) -> bool:
        """End the thread; whether it ended in time."""
        self._calls.put(None)
        end = asyncio.get_running_loop().time() + PATIENCE
        while self._thread.is_alive() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            loop, future, fn, args, kwargs = call
            result, error = None, None
            try:
                result = fn(*args, **kwargs)
            except BaseException as failure:  # noqa: BLE001 - it is raised where it is awaited
                error = failure
            if not loop.is_closed():
                loop.call_soon_threadsafe(_tell, future, result, error)
            del call, future, fn, args, kwargs, result, error


class TaskActor:
    """Executes calls one after the other in a task of its own, and awaits what is awaitable."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def start(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Hand in a call; the task returned ends with its outcome."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._calls.put_nowait((future, fn, args, kwargs))
        return loop.create_task(_outcome(future))

    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call and wait for the result."""
        return await self.start(fn, *args, **kwargs)

    async def enter(self, context: Any) -> Any:
        """Enter a context manager."""
        return await self.entering(context)

    def entering(self, context: Any) -> asyncio.Task[Any]:
        """Begin to enter a context manager."""
        return self.start(context.__aenter__)

    async def exit(self, context: Any, error: BaseException | None = None) -> Any:
        """Leave a context manager, as a body that raised `error` does."""
        return await self.call(context.__aexit__, *_exc_info(error))

    async def within(self, context: Any, body: Callable[[Any], Any]) -> Any:
        """Run `body` inside the context manager, by an `async with` statement."""

        async def run() -> Any:
            async with context as value:
                return await awaited(body(value))

        return await self.call(run)

    async def close(self) -> bool:
        """End the task; whether it ended in time."""
        self._calls.put_nowait(None)
        done, _ = await asyncio.wait([self._task], timeout=PATIENCE)
        if not done:
            self._task.cancel()
        return bool(done)

    async def _serve(self) -> None:
        while (call := await self._calls.get()) is not None:
            future, fn, args, kwargs = call
            result, error = None, None
            try:
                result = await awaited(fn(*args, **kwargs))
            except BaseException as failure:  # noqa: BLE001 - it is raised where it is awaited
                error = failure
            _tell(future, result, error)
            del call, future, fn, args, kwargs, result, error


Actor = ThreadActor | TaskActor


class World:
    """Makes clients and actors, and closes them. See the top of the file.

    Args:
        name: "sync" or "async".
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_sync = name == "sync"
        self._clients: list[Any] = []
        self._actors: list[Actor] = []

    def __repr__(self) -> str:
        return f"<World {self.name}>"

    def client(self, dsn: str, **settings: Any) -> Any:
        """Make a client; it is closed with the world."""
        client = Locks(dsn, **settings) if self.is_sync else AsyncLocks(dsn, **settings)
        self._clients.append(client)
        return client

    def forget(self, client: Any) -> None:
        """Leave a client to the test: it will not be closed here."""
        self._clients.remove(client)

    def actor(self) -> Actor:
        """Make somebody who can hold locks."""
        actor = ThreadActor() if self.is_sync else TaskActor()
        self._actors.append(actor)
        return actor

    def actors(self, count: int) -> list[Actor]:
        """Make several of them."""
        return [self.actor() for _ in range(count)]

    def defines(self, function: Callable[..., T]) -> Callable[..., Any]:
        """Turn a plain function into one of this world: a coroutine function in the async one."""
        if self.is_sync:
            return function

        async def as_coroutine(*args: Any, **kwargs: Any) -> T:
            return function(*args, **kwargs)

        return as_coroutine

    def stdlib_lock(self) -> Any:
        """The lock that ours stands in for."""
        return threading.Lock() if self.is_sync else asyncio.Lock()

    async def pause(self, seconds: float) -> None:
        """Let time pass in the test; actors go on."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the clients, which frees whoever waits in them, and end the actors."""
        closers = []
        for client in self._clients:
            closer = ThreadActor() if self.is_sync else TaskActor()
            closers.append(closer.start(client.close))
            self._actors.append(closer)
        self._clients.clear()
        if closers:
            done, hanging = await asyncio.wait(closers, timeout=PATIENCE)
            for task in done:
                task.result()
            assert not hanging, "a client could not be closed"
        ended = await asyncio.gather(*(actor.close() for actor in self._actors))
        assert all(ended), "an actor still waits, after its client was closed"


async def awaited(value: Any) -> Any:
    """Await what is awaitable."""
    return await value if inspect.isawaitable(value) else value


async def _outcome(future: asyncio.Future[Any]) -> Any:
    return await asyncio.shield(future)


def _tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError(repr(error)))
    else:
        future.set_exception(error)
        future.exception()  # a test that failed elsewhere does not ask for it any more


def _exc_info(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)
