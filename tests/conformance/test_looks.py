"""`held.lost` may be asked anywhere, and changes nothing for those whose answers it finds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from routes import direct_only
from waiting import aeventually

from advlock._connecting import connect
from advlock._dsn import resolve
from advlock._liveness import Bounds, Pulse
from advlock._session import Session

from .helpers import no_locks, soon, terminate
from .processes import program

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

SECONDS = 2


async def test_a_signal_handler_that_asks(world: World, dsn: str, name: str, admin: Admin) -> None:
    """It comes in the midst of a request; nothing is lost, taken twice, or stuck."""
    async with program("looker.py", world.name, dsn, name, str(SECONDS)) as process:
        said = await process.says()
        code, words = await process.ends()
        if code or not said:
            pytest.fail(f"it ended with {code}: {words}")
    taken, asked, lost, longest, stall = map(int, said.split())
    assert taken >= 20
    assert asked >= 100
    assert lost == 0
    assert stall < 5000, "somebody waited for an answer that a look had read"
    await no_locks(admin)
    print(f"{taken} locks, {asked} looks, {longest} ms, {stall} ms")  # noqa: T201 - with -rP


@direct_only("a pooler tells its client when the server's session ends, and how is another matter")
@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_a_look_takes_no_mutex(world: World, dsn: str, admin: Admin) -> None:
    """It may be a signal handler's, in a thread that has the client's mutex at that moment."""
    pulse, mutex, told = Pulse(Bounds()), threading.Lock(), threading.Event()

    def lost(*_: object) -> None:
        with mutex:
            told.set()

    wire = connect(dsn, resolve(dsn, given="the test's"), pulse).wire
    session, actor = Session(wire, pulse, on_lost=lost), world.actor()
    with mutex:
        terminate(admin, wire.pgconn.backend_pid)
        await aeventually(wire.has_news)
        assert await soon(actor.start(session.looks_alive)) is False
        assert not told.is_set()
    await aeventually(told.is_set)
    assert "terminating connection" in (session.lost or "")
