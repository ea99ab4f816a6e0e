"""`held.lost` may be asked anywhere, and changes nothing for those whose answers it finds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from advlock import LockError, LockLost, Locks
from advlock._session import Session

from .helpers import holding, no_locks, terminate
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


class Interrupted(threading.Thread):
    """A thread that a signal interrupts in the midst of the client's books, and what it does."""

    def __init__(self, client: Any, work: Any) -> None:
        super().__init__(daemon=True)
        self._client, self._work = client, work
        self.result: Any = "it waits for ever"
        self.start()
        self.join(5.0)

    def run(self) -> None:
        with self._client._mutex:
            try:
                self.result = self._work()
            except LockError as error:
                self.result = error


async def test_a_look_in_the_midst_of_the_books_finds_the_end(
    dsn: str, name: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that is interrupted cannot let go of the books first; they are written later."""
    monkeypatch.setattr(Session, "tend", lambda _: 60.0)  # or the watcher finds it before us
    told = threading.Event()
    client = Locks(dsn)  # not `with`: if the look waits for ever, so does leaving
    held = client._hold(name)
    held.on_lost(lambda _: told.set())
    terminate(admin, *holding(admin, name))
    await aeventually(held._ticket.session.wire.has_news)
    assert Interrupted(client, lambda: held.lost).result is True
    await aeventually(told.is_set)
    with pytest.raises(LockLost):
        client._let_go(held)
    client.close()


async def test_a_signal_handler_cannot_ask_in_the_midst_of_the_books(
    dsn: str, name: str, admin: Admin
) -> None:
    """It is told so, at once; and everybody else may ask as before."""
    client = Locks(dsn)
    with client.hold(name) as held:
        for context in (client.hold(name), client.attempt(f"{name}-2"), client.lock(name)):
            error = Interrupted(client, context.__enter__).result
            assert isinstance(error, LockError)
            assert "signal handler" in str(error)
        assert Interrupted(client, lambda: held.lost).result is False
    with client.hold(name):
        pass
    client.close()
    await no_locks(admin)


async def test_a_signal_handler_cannot_ask_while_its_thread_reads(
    dsn: str, name: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for the thread that it interrupts; what that one asked is answered."""
    client = Locks(dsn)
    client.holders(name)
    wire = type(client._sessions.shared.wire)
    receive, results = wire.receive, []

    def interrupted(one: Any) -> Any:
        monkeypatch.setattr(wire, "receive", receive)
        for way in (client.attempt(name), client.hold(name), client.hold_all([name, f"{name}-2"])):
            try:
                results.append(way.__enter__())
            except LockError as error:
                results.append(str(error))
        return receive(one)

    monkeypatch.setattr(wire, "receive", interrupted)
    with client.hold(f"{name}-3"):
        assert len(results) == 3
        assert all("signal handler" in one for one in results), results
    client.close()
    await no_locks(admin)
