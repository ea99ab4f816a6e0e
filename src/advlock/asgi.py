"""Lifespans for FastAPI, Starlette and their kind: what runs once, and what runs on the leader.

Nothing of a framework is imported: a lifespan is a function from the app to an async context
manager, which yields a mapping for `request.state`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any, Final

from advlock._alocks import AsyncLocks
from advlock._asgi._candidate import Candidate
from advlock._client import wait_seconds
from advlock._once._plan import want
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import TypeAlias

    from advlock._asgi._candidate import Task
    from advlock._client import Seconds
    from advlock._key import Name

    State: TypeAlias = Mapping[str, Any]
    Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[State | None]]

__all__ = ["Part", "lifespan", "run_once", "while_leader"]

KEY: Final = "advlock"  # in `request.state` and `app.state`


class Part:
    """What `run_once` and `while_leader` make, for `lifespan`."""

    def __init__(
        self,
        verb: str,
        name: Name,
        begin: Callable[[AsyncLocks], Awaitable[Candidate | None]],
    ) -> None:
        self._what = (verb, name)
        self._begin = begin

    def __repr__(self) -> str:
        """Show the call that made it."""
        verb, name = self._what
        return f"<advlock.asgi.{verb}({name!r}, …)>"


def run_once(
    name: str,
    function: Callable[[], object],
    *,
    per: Seconds = None,
    wait: Seconds = "10m",
) -> Part:
    """Do something once per deployment, at startup: one worker does it, the others wait for it.

    When the startup goes on, `function` has succeeded, here or in another process. That is recorded
    in the database under `name`, as by `AsyncLocks.once`: what is to be done again needs another
    name, or a window.

    Args:
        name: What is done; `seed-v3`.
        function: Called without arguments; a plain function is called in a thread, so that the
            event loop, and with it the lock, lives on.
        per: Do it again after so many seconds, or `"24h"`; None for never again.
        wait: How long to wait for another worker that is at it, and for the database, in seconds
            or as `"10m"`; None for ever. How long `function` itself takes is its own affair.

    Raises:
        ConfigError: no such name, no such window, or `function` takes arguments.

    The startup fails, and with it this worker, if `function` raises; with `LockTimeout` if another
    worker is still at it after `wait`; with `DatabaseUnavailable` if there is no database; with
    `LockLost` if the lock was lost meanwhile. Nothing is recorded then, and whoever starts next
    does it.
    """
    want(name, per)
    seconds = wait_seconds(wait)
    _check_call(function, (), "without arguments", "def {}(): …")

    async def begin(client: AsyncLocks) -> None:
        async with client.once(name, per=per, wait=seconds) as todo:
            if todo:
                await _call(function)

    return Part("run_once", name, begin)


def while_leader(name: Name, task: Task, *, pause: Seconds = 1.0, stop: Seconds = 10.0) -> Part:
    """Run an async function in the background, in one worker of all: in the one that leads.

    It is called with its `AsyncTerm`, and cancelled when the term is over: when the lock is lost
    (before another worker can lead, as long as this event loop runs) and at shutdown. A task that
    returns gives up the lead, and one that raises, too, which is logged; then all campaign again,
    this worker after a pause. So it runs in one worker until the last one has ended.

    The startup does not wait for it, nor for the database: while that is away, nobody leads.

    Args:
        name: Of the lead, which is a lock of that name.
        task: The function; `async def scheduler(term): …`.
        pause: Seconds to leave the lead to others after the task has returned; after a crash it is
            1 second at least, and doubles up to a minute.
        stop: Seconds that the task has to end in at shutdown, once it was cancelled. If it takes
            longer, the shutdown goes on without it, and it keeps the lead until the process ends.

    Raises:
        ConfigError: no such pause, or `task` does not take one argument.
    """
    paused, stopped = wait_seconds(pause) or 0.0, wait_seconds(stop)
    if paused < 0 or stopped is None or stopped < 0:
        raise ConfigError(f"pause and stop are 0 or more seconds, not {pause!r} and {stop!r}")
    _check_call(task, (None,), "with the term", "async def {}(term): …")
    if inspect.isasyncgenfunction(task):
        raise ConfigError(f"{task!r} is a generator; a task is awaited, so it must not yield")

    async def begin(client: AsyncLocks) -> Candidate:
        return Candidate(client, name, task, pause=paused, stop=stopped)

    return Part("while_leader", name, begin)


def lifespan(
    *parts: Part | Lifespan, client: Callable[[], AsyncLocks] = AsyncLocks
) -> Callable[[Any], AbstractAsyncContextManager[State]]:
    """Make a lifespan for `FastAPI(lifespan=…)`, `Starlette(lifespan=…)` and others.

    The parts are begun in their order and ended in the opposite one. Each is a `run_once(…)`, a
    `while_leader(…)`, or a lifespan of your own: a function from the app to an async context
    manager, whose mapping, if it yields one, goes into `request.state` as well.

    While it lasts there is a client, as `request.state.advlock` and `app.state.advlock`. It is made
    in the worker, after any fork, connects on first use, and is closed at the end.

    Args:
        parts: What to do at startup, and while the app runs.
        client: Makes the client; `lambda: AsyncLocks(url, namespace="shop")`. By default its
            database is that of the environment.

    Raises:
        ConfigError: something is no part, or there are two of the same name.
    """
    _check_parts(parts)

    def advlock_lifespan(app: Any) -> AbstractAsyncContextManager[State]:
        return _serve(app, parts, client)

    return advlock_lifespan


@contextlib.asynccontextmanager
async def _serve(
    app: Any, parts: Iterable[Part | Lifespan], client: Callable[[], AsyncLocks]
) -> AsyncIterator[State]:
    candidates: list[Candidate] = []
    async with contextlib.AsyncExitStack() as stack:
        locks = client()
        state: dict[str, Any] = {KEY: locks}
        stack.push_async_callback(_close, locks, candidates)
        if (shared := getattr(app, "state", None)) is not None:
            setattr(shared, KEY, locks)
        try:
            for part in parts:
                if not isinstance(part, Part):
                    more = await stack.enter_async_context(part(app))
                    state.update(more or {})
                elif (candidate := await part._begin(locks)) is not None:
                    candidates.append(candidate)
                    stack.push_async_callback(candidate.aclose)
            yield state
        finally:
            for candidate in candidates:  # all at once, so that their times do not add up
                candidate.close()


async def _close(client: AsyncLocks, candidates: list[Candidate]) -> None:
    # A task that does not end keeps its lock: nobody else may lead while it still works.
    if all(candidate.ended for candidate in candidates):
        await client.close()


async def _call(function: Callable[[], object]) -> None:
    if inspect.iscoroutinefunction(function):
        await function()
        return
    outcome = await _in_a_thread(function)
    if inspect.isawaitable(outcome):  # of a lambda, or of an object with an async `__call__`
        await outcome


async def _in_a_thread(function: Callable[[], object]) -> object:
    """Call it there; whoever is cancelled meanwhile has to wait, and keeps the lock so long.

    A thread cannot be cancelled, and nobody else may do it while this one is still at it.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        work.exception()  # retrieved
        raise cancelled
    return work.result()


def _check_call(function: object, given: tuple[object, ...], how: str, spelled: str) -> None:
    if not callable(function):
        raise ConfigError(f"{function!r} is no function; pass it without calling it")
    try:
        inspect.signature(function).bind(*given)
    except TypeError as error:
        what = getattr(function, "__name__", repr(function))
        raise ConfigError(
            f"{what} is called {how}, which it does not take ({error}); "
            f"write `{spelled.format(what)}`, or give a functools.partial"
        ) from None
    except ValueError:  # a built-in without a signature
        return


def _check_parts(parts: tuple[object, ...]) -> None:
    seen = set()
    for part in parts:
        if isinstance(part, Part):
            if part._what in seen:
                raise ConfigError(f"{part!r} is there twice; give each a name of its own")
            seen.add(part._what)
        elif inspect.isasyncgenfunction(part):
            raise ConfigError(f"decorate {part.__name__} with @contextlib.asynccontextmanager")
        elif not callable(part):
            raise ConfigError(
                f"{part!r} is no part of a lifespan; give run_once(…), while_leader(…) or a "
                f"function from the app to an async context manager"
            )
