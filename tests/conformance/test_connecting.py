"""A connection that cannot be looked after, or that somebody else has, too, is none."""

from __future__ import annotations

import _thread
import errno
import os
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from advlock import DatabaseUnavailable, _watch

from .helpers import holding, soon
from .processes import program

if TYPE_CHECKING:
    from .helpers import Admin, Sessions
    from .worlds import World

NO_DESCRIPTOR = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
NO_THREAD = RuntimeError("can't start new thread")
SHORTAGES = [
    (os, "pipe2", NO_DESCRIPTOR),
    (select, "epoll", NO_DESCRIPTOR),
    (_thread, "start_new_thread", NO_THREAD),
]


class Without:
    """A module of which one function fails."""

    def __init__(self, module: Any, missing: str, error: Exception) -> None:
        self._module = module
        self._missing = missing
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return self._fail if name == self._missing else getattr(self._module, name)

    def _fail(self, *_: object) -> None:
        raise self._error


@pytest.mark.parametrize("world", ["sync"], indirect=True)
@pytest.mark.parametrize(("module", "missing", "error"), SHORTAGES)
async def test_a_session_that_cannot_be_looked_after(
    world: World,
    dsn: str,
    name: str,
    application: str,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    missing: str,
    error: Exception,
) -> None:
    """No descriptor or no thread for the watcher: hold() says so, and works when there is one."""
    client, actor = world.client(dsn, application_name=application), world.actor()
    with monkeypatch.context() as patch:
        patch.setattr(_watch, "_watcher", None)
        with monkeypatch.context() as shortage:
            shortage.setattr(_watch, module.__name__, Without(module, missing, error))
            with pytest.raises(DatabaseUnavailable, match=str(error.args[-1])):
                await soon(actor.entering(client.hold(name)), within=2)
            await aeventually(lambda: not sessions(application))
        context = client.hold(name, wait=5)
        await actor.enter(context)
        await actor.exit(context)
        await actor.call(client.close)
        watcher: Any = _watch._watcher
        await aeventually(lambda: watcher._thread is None)
        watcher.close()


async def test_a_fork_while_connecting(world: World, dsn: str, name: str, admin: Admin) -> None:
    """The child has a copy of a socket it knows nothing of; the parent's end frees the lock."""
    async with program("program.py", world.name, "fork-connecting", dsn, name) as process:
        child = int((await process.says()).split()[1])
        try:
            assert await process.says() == "held"
            assert holding(admin, name)
            process.kill()
            await aeventually(lambda: not holding(admin, name), within=2)
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
